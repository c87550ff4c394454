# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What hf_tc offers at its top level."""

import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from fresh_processes import run_code
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import hf_tc
from hf_tc.modeling.supported_versions import HF_TC_VERSION

NAMES = sorted(hf_tc.PUBLIC)
TEXTS = [path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("*.md")]


def test_names() -> None:
    assert sorted(hf_tc.__all__) == sorted([*NAMES, "__version__"])
    assert set(hf_tc.__all__) <= set(dir(hf_tc))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = hf_tc.no_such_name


def test_the_version_is_the_package_s() -> None:
    assert hf_tc.__version__ == version("hf_tc") == HF_TC_VERSION


def test_what_only_conversion_and_training_need_is_not_imported() -> None:
    late = ["peft", "datasets", "pandas", "matplotlib", "rich", "transformers.trainer", "hf_tc.convert"]

    code = "import sys; late = set(sys.argv[1:]); assert not late & set(sys.modules)\n"
    # Where optional packages are installed, the library imports some of these itself.
    code += "from transformers import AutoModelForCausalLM, PreTrainedModel; late -= set(sys.modules)\n"
    code += "import hf_tc; assert not late & set(sys.modules), late & set(sys.modules)"
    done = run_code(code, *late)
    assert done.returncode == 0, done.stderr


def test_help_and_version_need_no_model() -> None:
    command = Path(sys.executable).with_name("hf-tc")
    code = (
        f"import runpy, sys; sys.argv = [{str(command)!r}, sys.argv[1]]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    for option, expected in (("--help", "usage: hf-tc"), ("--version", f"hf_tc {hf_tc.__version__}")):
        done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(expected)
        assert done.stderr.split() == ["False"]


def test_a_checkout_that_hides_the_installed_package_says_so() -> None:
    """As where Python is started in the checkout after `pip install .`, without -e."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "named = lambda finder: getattr(finder, '__name__', type(finder).__name__)\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'Editable' not in named(finder)]\n"
        "import hf_tc"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True)
    assert f"ImportError: {root}/hf_tc is a folder of a checkout" in done.stderr.splitlines()[-1]
    assert f"pip install --use-pep517 -e {root}" in done.stderr.splitlines()[-1]


def test_lora_targets_are_known_whenever_peft_is_imported() -> None:
    for order in ("import hf_tc, peft", "import peft, hf_tc"):
        code = f"{order}; from peft.utils import constants as c; "
        code += "print(c.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING['hybrid_gdn'])"
        assert "q_proj" in run_code(code).stdout


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_documented(name: str) -> None:
    documentation = getattr(hf_tc, name).__dict__.get("__doc__") or getattr(hf_tc, name).__doc__
    assert documentation
    assert len(inspect.cleandoc(documentation)) > 20
    assert any(name in text for text in TEXTS), "no page names it"


def test_from_teacher_shows_its_arguments_with_types_wherever_it_is_asked() -> None:
    shown = inspect.signature(hf_tc.HybridGDNForCausalLM.from_teacher)
    assert shown == inspect.signature(hf_tc.from_teacher)
    assert {"calibration_data", "retained_layers", "alignment_steps", "joint_steps"} <= shown.parameters.keys()
    for parameter in shown.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
    assert inspect.getdoc(hf_tc.HybridGDNForCausalLM.from_teacher) == inspect.getdoc(hf_tc.from_teacher)


def test_importing_registers_the_student() -> None:
    config = AutoConfig.for_model("hybrid_gdn")
    assert type(config) is hf_tc.HybridGDNConfig
    assert AutoModel._model_mapping[type(config)] is hf_tc.HybridGDNModel
    assert AutoModelForCausalLM._model_mapping[type(config)] is hf_tc.HybridGDNForCausalLM
