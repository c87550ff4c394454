# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Every option is declared once, in `hf_tc.config`; all that takes options agrees with it."""

import argparse
import inspect
import subprocess
import sys
from typing import Any, get_type_hints

import pytest
from tiny_sizes import SIZES
from transformers import AutoConfig

from hf_tc import convert, planning
from hf_tc.cli.main import build_parser
from hf_tc.config import AlignmentConfig, ConversionConfig, JointConfig, MixerConfig
from hf_tc.options import OPTIONS, options_of, with_options
from hf_tc.planning.plan import plan_conversion

INPUTS = {"teacher", "tokenizer", "calibration_data", "evaluation_data", "checkpoint_dir", "settings"}
ALIGNING = {"alignment_steps", "joint_steps"}
MIXERS = {"recurrent_rope", "conv_kernel_size", "output_norm"}


def declared_type(name: str) -> Any:
    part, field = OPTIONS[name]
    owner = type(getattr(ConversionConfig(), part)) if part else ConversionConfig
    return get_type_hints(owner, globalns=vars(convert))[field.name]


def test_from_teacher_has_the_options_their_order_types_and_defaults() -> None:
    signature, types = inspect.signature(convert.from_teacher), get_type_hints(convert.from_teacher)
    shown = {name: item for name, item in signature.parameters.items() if name not in INPUTS}
    assert list(shown) == list(OPTIONS)
    for name, item in shown.items():
        assert item.default == OPTIONS[name].field.default, name
        assert types[name] == declared_type(name), name


@pytest.mark.parametrize(
    ("function", "left_out"), [(convert.select_layers, ALIGNING), (planning.plan.plan_conversion, set())]
)
def test_functions_of_the_tree_show_its_options(function: Any, left_out: set[str]) -> None:
    shown = {name: item for name, item in inspect.signature(function).parameters.items() if name not in INPUTS}
    assert shown.keys() == OPTIONS.keys() - left_out
    assert all(item.kind is item.KEYWORD_ONLY for item in shown.values())
    assert {name: item.default for name, item in shown.items()} == {name: OPTIONS[name].field.default for name in shown}
    assert {name: item.annotation for name, item in shown.items()} == {name: declared_type(name) for name in shown}
    with pytest.raises(TypeError, match="unexpected keyword argument 'no_such_option'"):
        function("teacher", no_such_option=1)


def test_select_layers_takes_no_steps_of_an_alignment_that_it_does_not_do() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'alignment_steps'"):
        convert.select_layers("teacher", alignment_steps=3)


def test_options_reach_their_place_in_the_tree() -> None:
    given = {"alignment_steps": 3, "joint_steps": 4, "output_norm": True, "seed": 5, "layer_policy": "bypass"}
    settings = with_options(ConversionConfig(512, 64, alignment=AlignmentConfig(1, batch_tokens=99)), given)
    assert settings.alignment == AlignmentConfig(3, batch_tokens=99)
    assert settings.joint == JointConfig(4)
    assert settings.mixer == MixerConfig(output_norm=True)
    assert (settings.seed, settings.selection.layer_policy, settings.sequence_length) == (5, "bypass", 64)
    assert options_of(settings) == {
        **options_of(ConversionConfig()),
        **given,
        "calibration_tokens": 512,
        "sequence_length": 64,
    }


def test_from_teacher_hands_every_option_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    other: dict[str, Any] = {
        "retained_layers": 0.5, "layer_policy": "uniform", "calibration_tokens": 512, "sequence_length": 64,
        "alignment_steps": 7, "joint_steps": 8, "mixer_form": "qwen3_5", "recurrent_rope": False,
        "conv_kernel_size": 2, "output_norm": True, "seed": 9, "device": "cpu", "device_map": "auto",
        "dtype": "bfloat16", "allow_unreviewed": True, "merge_adapter": True,
    }  # fmt: skip
    assert other.keys() == OPTIONS.keys()
    monkeypatch.setattr(convert, "convert_teacher", lambda teacher, tokenizer, settings, **inputs: settings)
    assert options_of(convert.from_teacher("teacher", **other)) == other
    assert convert.from_teacher("teacher") == ConversionConfig()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"calibration_tokens": "65536"}, "calibration_tokens is '65536'; it must be a whole number"),
        ({"joint_steps": 2.5}, r"joint_steps is 2\.5; it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"recurrent_rope": "false"}, "recurrent_rope is 'false'; it must be True or False"),
    ],
)
def test_options_of_another_kind_are_refused(given: dict[str, Any], message: str) -> None:
    for function in (convert.from_teacher, plan_conversion):
        with pytest.raises(ValueError, match=message):
            function("no teacher is looked for", **given)


def test_a_plan_changes_single_settings() -> None:
    config = AutoConfig.for_model("llama", **SIZES)
    settings = ConversionConfig(512, 64, joint=JointConfig(3))
    plan = plan_conversion(config, settings=settings, retained_layers=[1], conv_kernel_size=0)
    assert plan.settings == with_options(settings, {"retained_layers": [1], "conv_kernel_size": 0})
    assert plan.retained_layers == (1,)
    assert plan.student_parameters < plan_conversion(config, settings=settings, retained_layers=[1]).student_parameters


@pytest.mark.parametrize(("command", "left_out"), [("convert", MIXERS), ("select", MIXERS | ALIGNING)])
def test_the_command_line_is_made_of_the_options(command: str, left_out: set[str]) -> None:
    parsers = next(item for item in build_parser()._actions if isinstance(item, argparse._SubParsersAction)).choices
    actions = {item.dest: item for item in parsers[command]._actions if item.help != argparse.SUPPRESS}
    for name in OPTIONS.keys() - left_out - {"retained_layers"}:
        field = OPTIONS[name].field
        assert actions[name].option_strings == [f"--{name.replace('_', '-')}"]
        assert actions[name].default == field.default
        assert actions[name].help.startswith(field.metadata["help"])
    assert actions.keys().isdisjoint(left_out)
    assert actions["retain"].default == OPTIONS["retained_layers"].field.default


def test_settings_are_read_without_a_model_library() -> None:
    code = "import sys; sys.argv = ['hf-tc']; import hf_tc.options; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
