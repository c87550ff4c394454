# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""hf_tc turns pretrained Transformer language models into hybrids with Gated DeltaNet layers.

Importing it registers the student's classes with Transformers, so that `AutoModelForCausalLM.from_pretrained` loads a
converted student without further arguments. What only conversion and training need is imported when it is used.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if (
    find_spec("hf_tc.modeling") is None
):  # in a checkout it is elsewhere, and found by what a modern `pip install -e` sets up
    raise ImportError(
        f"{Path(__file__).parent} is a folder of a checkout, which hides the hf_tc that is installed. Start Python in "
        f"another folder, or install the checkout as it is: pip install --use-pep517 -e {Path(__file__).parents[1]}"
    )

import hf_tc.moved_modules  # noqa: F401, which old names of modules lead to

if TYPE_CHECKING:
    from hf_tc.convert import from_teacher, select_layers
    from hf_tc.distillation.cache_teacher import cache_teacher
    from hf_tc.distillation.config import DistillationConfig
    from hf_tc.distillation.learning_curve import LearningCurve
    from hf_tc.distillation.teacher_cache import load_teacher_cache
    from hf_tc.distillation.trainer import DistillationTrainer
    from hf_tc.distillation.weight_decay import UndecayedMemoryMixin
    from hf_tc.evaluation.evaluate import evaluate
    from hf_tc.evaluation.figures import Evaluation
    from hf_tc.export.export import export_student
    from hf_tc.hub.push import push_folder
    from hf_tc.hub.refresh import refresh
    from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM, HybridGDNModel
    from hf_tc.planning.plan import ConversionPlan, plan_conversion
    from hf_tc.report.records import ConversionReport
    from hf_tc.sampling.sample import sample_text
    from hf_tc.selection import LayerSelection

__version__ = version("hf_tc")

PUBLIC = {
    "ConversionPlan": "hf_tc.planning.plan",
    "ConversionReport": "hf_tc.report.records",
    "DistillationConfig": "hf_tc.distillation.config",
    "DistillationTrainer": "hf_tc.distillation.trainer",
    "Evaluation": "hf_tc.evaluation.figures",
    "HybridGDNConfig": "hf_tc.modeling",
    "HybridGDNForCausalLM": "hf_tc.modeling",
    "HybridGDNModel": "hf_tc.modeling",
    "LayerSelection": "hf_tc.selection",
    "LearningCurve": "hf_tc.distillation.learning_curve",
    "UndecayedMemoryMixin": "hf_tc.distillation.weight_decay",
    "cache_teacher": "hf_tc.distillation.cache_teacher",
    "evaluate": "hf_tc.evaluation.evaluate",
    "export_student": "hf_tc.export.export",
    "from_teacher": "hf_tc.convert",
    "load_teacher_cache": "hf_tc.distillation.teacher_cache",
    "plan_conversion": "hf_tc.planning.plan",
    "push_folder": "hf_tc.hub.push",
    "refresh": "hf_tc.hub.refresh",
    "sample_text": "hf_tc.sampling.sample",
    "select_layers": "hf_tc.convert",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'hf_tc' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])


# The command registers once it knows what to do: its help needs no model.
if Path(sys.argv[0] if sys.argv else "").stem != "hf-tc":
    from hf_tc.hub.registration import register

    register()

__all__ = [
    "ConversionPlan",
    "ConversionReport",
    "DistillationConfig",
    "DistillationTrainer",
    "Evaluation",
    "HybridGDNConfig",
    "HybridGDNForCausalLM",
    "HybridGDNModel",
    "LayerSelection",
    "LearningCurve",
    "UndecayedMemoryMixin",
    "__version__",
    "cache_teacher",
    "evaluate",
    "export_student",
    "from_teacher",
    "load_teacher_cache",
    "plan_conversion",
    "push_folder",
    "refresh",
    "sample_text",
    "select_layers",
]
