# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Makes Transformers and PEFT know the student's model type."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto import modeling_auto

from hf_tc.hub.after_import import after_import
from hf_tc.modeling import (
    HybridGDNConfig,
    HybridGDNForCausalLM,
    HybridGDNForQuestionAnswering,
    HybridGDNForSequenceClassification,
    HybridGDNForTokenClassification,
    HybridGDNModel,
    HybridGDNPreTrainedModel,
)

# Class, auto class, and the table in which tools look the class up by name only: the trainer's label smoothing and
# default labels, lm-eval, the library's common tests.
MODELS = (
    (HybridGDNModel, AutoModel, modeling_auto.MODEL_MAPPING_NAMES),
    (HybridGDNForCausalLM, AutoModelForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    (
        HybridGDNForSequenceClassification,
        AutoModelForSequenceClassification,
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    ),
    (
        HybridGDNForTokenClassification,
        AutoModelForTokenClassification,
        modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    ),
    (
        HybridGDNForQuestionAnswering,
        AutoModelForQuestionAnswering,
        modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    ),
)

# What LoRA adapts by default: the projections that attention and recurrent layers have in common.
LORA_TARGET_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]


def register() -> None:
    """Registers configuration, models and PEFT targets; safe to call twice."""
    model_type = HybridGDNConfig.model_type
    AutoConfig.register(model_type, HybridGDNConfig, exist_ok=True)
    for model_class, auto_class, names in MODELS:
        auto_class.register(HybridGDNConfig, model_class, exist_ok=True)
        names[model_type] = model_class.__name__
    HybridGDNForCausalLM.from_teacher = _FromTeacher()  # type: ignore[method-assign]  # shows its arguments
    # Saving a student writes report and model card too, loading it reads the report.
    HybridGDNPreTrainedModel.save_extras = _save_extras
    HybridGDNPreTrainedModel.load_extras = _load_extras
    after_import("peft.utils.constants", _register_lora_targets)
    after_import("transformers.trainer", _spare_what_forgets)


class _FromTeacher:
    """`hf_tc.convert.from_teacher` under a student's class, imported when it is called, asked for help or inspected."""

    @property
    def _function(self) -> Callable[..., HybridGDNForCausalLM]:
        from hf_tc.convert import from_teacher

        return from_teacher

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]  # a property, since the text is the function's
        return self._function.__doc__

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    def __call__(self, *args: Any, **kwargs: Any) -> HybridGDNForCausalLM:
        return self._function(*args, **kwargs)


def _save_extras(student: HybridGDNPreTrainedModel, folder: Path, repo_id: str) -> None:
    from hf_tc.hub.save_extras import save_extras

    save_extras(student, folder, repo_id)


def _load_extras(student: HybridGDNPreTrainedModel, source: str | os.PathLike[str], options: dict[str, Any]) -> None:
    from hf_tc.hub.load_extras import load_extras

    load_extras(student, source, options)


def _spare_what_forgets(trainer: Any) -> None:
    from hf_tc.distillation.weight_decay import spare_what_forgets

    if not hasattr(trainer.Trainer.get_decay_parameter_names, "__wrapped__"):  # registering twice is safe
        spare_what_forgets(trainer.Trainer)


def _register_lora_targets(constants: Any) -> None:
    constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING[HybridGDNConfig.model_type] = LORA_TARGET_MODULES
