# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Wrapped teachers and teachers with an adapter: refused at once with the way out, or merged when asked."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import refused
from conversion_inputs import LENGTH, QUICK, TOKENS, equal_states, letter_teacher, state_of, teacher_folder, text_file
from peft import LoraConfig, PeftModel, PromptTuningConfig, TaskType, get_peft_model
from student_folders import letter_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM

from hf_tc.cli.main import main
from hf_tc.convert import from_teacher, select_layers
from hf_tc.planning.plan import plan_conversion
from hf_tc.report.records import ConversionReport
from hf_tc.teachers.adapters import adapter_base, check_no_adapter, check_not_wrapped, load_merged, merged_copy

IDS = torch.arange(4, 24)[None]


def adapted(model: nn.Module) -> PeftModel:
    torch.manual_seed(0)
    lora = LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False)  # matters from the start
    return get_peft_model(model, lora)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's folder as PEFT saves it, without a tokenizer."""
    folder = tmp_path_factory.mktemp("adapter")
    adapted(AutoModelForCausalLM.from_pretrained(base)).save_pretrained(folder)
    return folder


def loaded_with_adapter(folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder)


def base_inside_peft(folder: Path) -> nn.Module:
    return adapted(letter_teacher()).get_base_model()


WRAPPED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "torch.compile": (
        lambda folder: torch.compile(letter_teacher()),
        r"OptimizedModule around Qwen3.*teacher\._orig_mod",
    ),
    "DataParallel": (lambda folder: nn.DataParallel(letter_teacher()), r"DataParallel around Qwen3.*teacher\.module"),
    "PeftModel": (lambda folder: adapted(letter_teacher()), r"PeftModel around Qwen3.*teacher\.merge_and_unload\(\)"),
    "adapter loaded into it": (loaded_with_adapter, r"has a PEFT adapter in it.*merge_and_unload\(\)"),
    "base of a PeftModel": (base_inside_peft, r"has a PEFT adapter in it.*merge_and_unload\(\)"),
    "folder": (str, r"is a PEFT adapter of .*base.*merge_adapter=True \(--merge-adapter\)"),
    "other module": (lambda folder: nn.Linear(2, 2), "type Linear; give a Transformers model"),
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("convert", [from_teacher, select_layers, plan_conversion])
def test_refused_before_anything_is_read(kind: str, convert: Callable[..., Any], adapter: Path) -> None:
    make, message = WRAPPED[kind]
    missing = {} if convert is plan_conversion else {"calibration_data": "missing.txt"}
    with pytest.raises(ValueError, match=message) as caught:
        convert(make(adapter), **missing)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["convert", "select", "dry run"])
def test_commands_refuse_an_adapter_in_one_line(
    command: str, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--dry-run"] if command == "dry run" else ["--out", tmp_path / "out"]
    line = refused(capsys, "select" if command == "select" else "convert", adapter, *out)
    assert "PEFT adapter" in line
    assert "--merge-adapter" in line


def test_distill_refuses_an_adapter_as_student(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--teacher", base, "--data", "missing.txt", "--out", tmp_path / "out", "--tokens", 2048]
    assert "is a PEFT adapter of" in refused(capsys, "distill", adapter, *options)


def test_merging_is_the_adapted_model_and_leaves_it_alone(base: Path, adapter: Path) -> None:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    before = state_of(model)
    with torch.no_grad():
        expected, plain = model(IDS).logits, AutoModelForCausalLM.from_pretrained(base)(IDS).logits
        for merged in (merged_copy(model), load_merged(adapter, "auto")):
            torch.testing.assert_close(merged(IDS).logits, expected, rtol=0, atol=1e-4)
            assert type(merged) is type(letter_teacher())
    assert (plain - expected).abs().max() > 0.01
    assert equal_states(state_of(model), before)


def test_an_adapter_is_converted_when_asked(adapter: Path, tmp_path: Path) -> None:
    text = text_file(tmp_path / "text.txt")
    options = ["--data", text, "--calibration-tokens", TOKENS, "--sequence-length", LENGTH, "--alignment-steps", 2]
    arguments = [
        "convert",
        adapter,
        "--out",
        tmp_path / "student",
        "--merge-adapter",
        "--retained-layers",
        "1",
        *options,
    ]
    assert main([str(argument) for argument in arguments]) == 0
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    merged = load_merged(adapter, "auto")
    for name in ("model.layers.1.self_attn.q_proj.weight", "model.layers.2.mlp.up_proj.weight"):
        assert torch.equal(student.state_dict()[name], merged.state_dict()[name])
    report = ConversionReport.load(tmp_path / "student")
    assert report.teacher == str(adapter)
    assert report.arguments["merge_adapter"] is True


def test_a_peft_model_is_converted_when_asked(tmp_path: Path) -> None:
    model = adapted(letter_teacher())
    before = state_of(model)
    options = {"calibration_data": text_file(tmp_path / "text.txt"), "retained_layers": [1], **QUICK}
    student = from_teacher(model, letter_tokenizer(), merge_adapter=True, **options)
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(student.state_dict()[name], merged_copy(model).state_dict()[name])
    assert equal_states(state_of(model), before)


def test_the_plan_of_an_adapter_is_its_base_s(base: Path, adapter: Path) -> None:
    plan = plan_conversion(adapter, merge_adapter=True)
    assert plan.teacher_parameters == plan_conversion(base).teacher_parameters
    assert adapter_base(base) is None
    assert adapter_base(base / "config.json") is None


def test_nothing_to_merge_and_what_cannot_be_merged(base: Path, adapter: Path) -> None:
    for teacher in (base, letter_teacher()):
        with pytest.raises(ValueError, match=r"merge_adapter is set, and .* no PEFT adapter"):
            from_teacher(teacher, letter_tokenizer(), merge_adapter=True)
    prompt = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    with pytest.raises(ValueError, match="PROMPT_TUNING: tokens before the text"):
        from_teacher(get_peft_model(letter_teacher(), prompt), letter_tokenizer(), merge_adapter=True)
    with pytest.raises(ValueError, match="device_map is 'auto'"):
        from_teacher(adapter, merge_adapter=True, device_map="auto")


def test_wrappers_are_named_and_peft_passes() -> None:
    with pytest.raises(ValueError, match=r"The student is wrapped, DataParallel around Qwen3.*student\.module"):
        check_not_wrapped(nn.DataParallel(letter_teacher()), "student")
    check_not_wrapped(adapted(letter_teacher()), "student")


def test_without_peft_only_an_adapter_is_refused(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # as where it was not installed
    monkeypatch.delitem(sys.modules, "peft.tuners.tuners_utils")
    check_no_adapter(letter_teacher())
    with pytest.raises(ImportError, match="is a PEFT adapter, and merging it needs peft: pip install peft"):
        load_merged(adapter, "auto")
