# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`from_teacher`: a teacher by name or as an object, what it leaves alone, and what reaches the student."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import QUICK, circumstances, equal_states, letter_teacher, state_of, teacher_folder, text_file
from student_folders import letter_tokenizer
from transformers import AutoModelForCausalLM

from hf_tc.convert import from_teacher
from hf_tc.modeling import HybridGDNForCausalLM


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return text_file(tmp_path / "text.txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_folder(tmp_path_factory.mktemp("teacher"))


def test_a_teacher_object_is_left_as_it_was_found(text: Path) -> None:
    teacher = letter_teacher()
    teacher.train()
    teacher.model.layers[1].eval()  # some modules were frozen by whoever trains it
    teacher.model.embed_tokens.requires_grad_(False)
    teacher.model.layers[0].register_forward_hook(lambda *args: None)
    weights, before, random_state = state_of(teacher), circumstances(teacher), torch.get_rng_state()
    student = HybridGDNForCausalLM.from_teacher(teacher, letter_tokenizer(), calibration_data=text, **QUICK)
    assert circumstances(teacher) == before
    assert equal_states(state_of(teacher), weights)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not student.training
    assert all(parameter.requires_grad for name, parameter in student.named_parameters() if "embed" not in name)

    student.train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    ids = torch.arange(3, 30)[None]
    student(ids, labels=ids).loss.backward()
    optimizer.step()
    assert equal_states(state_of(teacher), weights)
    assert not torch.equal(student.model.layers[0].mlp.up_proj.weight, teacher.model.layers[0].mlp.up_proj.weight)


def test_a_teacher_is_left_as_it_was_found_when_the_conversion_fails(
    text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = letter_teacher().train()
    weights, before = state_of(teacher), circumstances(teacher)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise ArithmeticError

    monkeypatch.setattr("hf_tc.conversion.fit_layer.align_layer", fails)
    with pytest.raises(ArithmeticError):
        from_teacher(teacher, letter_tokenizer(), calibration_data=text, **QUICK)
    assert circumstances(teacher) == before
    assert equal_states(state_of(teacher), weights)


def test_a_teacher_by_name_gives_the_student_of_the_teacher_object(folder: Path, text: Path) -> None:
    files = {path: path.read_bytes() for path in folder.iterdir()}
    named = from_teacher(str(folder), calibration_data=text, device="cpu", **QUICK)
    given = from_teacher(letter_teacher(), letter_tokenizer(), calibration_data=text, **QUICK)
    assert equal_states(state_of(named), state_of(given))
    assert named.conversion_report.teacher.endswith(folder.name)
    assert Path(named.conversion_report.data).name == text.name
    assert named.tokenizer.get_vocab() == letter_tokenizer().get_vocab()
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_dtype_of_a_teacher_by_name_is_the_students(folder: Path, text: Path, dtype: Any) -> None:
    student = from_teacher(folder, calibration_data=text, device="cpu", dtype=dtype, **QUICK)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.bfloat16}


def test_student_is_saved_and_comes_back(folder: Path, text: Path, tmp_path: Path) -> None:
    student = from_teacher(folder, calibration_data=text, device="cpu", **QUICK)
    student.save_pretrained(tmp_path / "student")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(again(ids).logits, student(ids).logits)
    assert again.config.calibration == student.conversion_report.provenance


def test_options_reach_the_student(text: Path) -> None:
    student = from_teacher(
        letter_teacher(),
        letter_tokenizer(),
        calibration_data=text,
        evaluation_data=text_file(text.with_name("held-out.txt"), 200, seed=1),
        retained_layers=[2],
        recurrent_rope=False,
        conv_kernel_size=0,
        output_norm=True,
        seed=5,
        calibration_tokens=128,
        sequence_length=16,
        alignment_steps=0,
    )
    config, report = student.config, student.conversion_report
    assert (config.recurrent_rope, config.conv_kernel_size, config.output_norm) == (False, 0, True)
    assert (config.retained_layers, report.seed, report.alignment_steps) == ((2,), 5, 0)
    assert report.calibration_tokens == 128
    assert report.perplexity_tokens == 200 // 16 * 15


def test_the_form_of_qwen3_5_reaches_the_student(text: Path) -> None:
    """With the teacher's epsilon in the output norm: that architecture has one for all of its norms."""
    teacher = letter_teacher()
    options = {**QUICK, "mixer_form": "qwen3_5", "alignment_steps": 2, "joint_steps": 1}
    student = from_teacher(teacher, letter_tokenizer(), calibration_data=text, **options)
    config, report = student.config, student.conversion_report
    assert (config.recurrent_rope, config.output_norm, config.output_norm_eps) == (False, True, 1e-6)
    assert (config.conv_activation, config.recurrent_bias, config.recurrent_qk_norm) == ("silu", False, False)
    assert report.arguments["mixer_form"] == "qwen3_5"
    assert report.layers[0].head_distances
    assert all(row.error_aligned <= row.error_closed_form for row in report.layers)
    with pytest.raises(ValueError, match="mixer_form is 'qwen'; it must be one of gdn, qwen3_5"):
        from_teacher(teacher, letter_tokenizer(), calibration_data=text, mixer_form="qwen")
    with pytest.raises(ValueError, match="that form has a convolution"):
        from_teacher(teacher, letter_tokenizer(), calibration_data=text, mixer_form="qwen3_5", conv_kernel_size=0)


def test_going_on_from_a_checkpoint_folder(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"calibration_data": text, **QUICK}
    first = from_teacher(letter_teacher(), letter_tokenizer(), checkpoint_dir=tmp_path / "part", **options)

    def not_again(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a finished layer was fitted again")

    monkeypatch.setattr("hf_tc.conversion.fit_layer.solve", not_again)
    again = from_teacher(letter_teacher(), letter_tokenizer(), checkpoint_dir=tmp_path / "part", **options)
    assert equal_states(state_of(first), state_of(again))
    with pytest.raises(ValueError, match=r"settings\.seed: 0 there, 7 now"):
        from_teacher(letter_teacher(), letter_tokenizer(), checkpoint_dir=tmp_path / "part", seed=7, **options)
