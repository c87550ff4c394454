# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Everything that `from_teacher` refuses, before it writes anything."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conversion_inputs import LENGTH, QUICK, TOKENS, letter_teacher, teacher_folder, text_file
from planted import tiny_teacher
from student_folders import letter_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_tc.convert import from_teacher
from hf_tc.data.token_blocks import CalibrationDataError
from hf_tc.teachers.checks import UnreviewedTeacherError
from hf_tc.teachers.families import REVIEWED_FAMILIES

SMALL_BERT = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL_T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


def check_refused(error: type[Exception], message: str, folder: Path, *args: Any, **options: Any) -> None:
    """Refused with this message, before the checkpoint folder was made; the text is good if no other is given."""
    text, unfinished = text_file(folder / "text.txt"), folder / "unfinished"
    with pytest.raises(error, match=message):
        from_teacher(*args, checkpoint_dir=unfinished, **{"calibration_data": text, **QUICK, **options})
    assert not unfinished.exists()


def gpt2() -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=64))


def with_nan() -> PreTrainedModel:
    teacher = letter_teacher()
    teacher.model.layers[2].mlp.down_proj.weight.data[1, 2] = float("nan")
    return teacher


TEACHERS: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "refused family": (gpt2, "'gpt2' cannot be converted"),
    "encoder": (lambda: BertForMaskedLM(BertConfig(**SMALL_BERT, intermediate_size=16)), "BertForMaskedLM"),
    "encoder-decoder": (lambda: T5ForConditionalGeneration(T5Config(**SMALL_T5)), "encoder-decoder"),
    "NaN": (with_nan, r"layers.2.mlp.down_proj.weight has 1 of \d+ values that are NaN"),
    "vocabulary": (lambda: tiny_teacher(vocab_size=50), "tokenizer has 62 tokens"),
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_teachers_that_cannot_be_converted_are_refused(kind: str, tmp_path: Path) -> None:
    make, message = TEACHERS[kind]
    check_refused(ValueError, message, tmp_path, make(), letter_tokenizer())


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "layer out of range": ({"retained_layers": [0, 3]}, r"contains 3; the teacher has 3 layers"),
    "negative layer": ({"retained_layers": [-1]}, "contains -1"),
    "duplicate": ({"retained_layers": [1, 1]}, "more than once"),
    "share above 1": ({"retained_layers": 1.5}, r"must lie in \[0, 1\]"),
    "share below 0": ({"retained_layers": -0.25}, r"must lie in \[0, 1\]"),
    "tokens for one block": ({"calibration_tokens": LENGTH}, "at least two blocks"),
    "negative steps": ({"alignment_steps": -5}, "alignment_steps is -5"),
    "no such file": ({"calibration_data": "/no/such/file.txt"}, "no file /no/such/file.txt"),
    "no such held-out file": ({"evaluation_data": "/no/such/file.txt"}, "no file /no/such/file.txt"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_that_make_no_sense_are_refused(kind: str, tmp_path: Path) -> None:
    options, message = OPTIONS[kind]
    check_refused(ValueError, message, tmp_path, letter_teacher(), letter_tokenizer(), **options)


@pytest.mark.parametrize("letters", [10, LENGTH, 2 * LENGTH - 1])
def test_too_little_text_is_refused(letters: int, tmp_path: Path) -> None:
    short = text_file(tmp_path / "short.txt", letters)
    given = letter_teacher(), letter_tokenizer()
    check_refused(CalibrationDataError, "Give more text", tmp_path, *given, calibration_data=short)


def test_empty_text_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("  \n")
    given = letter_teacher(), letter_tokenizer()
    check_refused(CalibrationDataError, "holds no text", tmp_path, *given, calibration_data=empty)


def test_a_teachers_missing_shard_is_refused(tmp_path: Path) -> None:
    folder = teacher_folder(tmp_path / "teacher", max_shard_size="20KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    check_refused(OSError, shards[1].name, tmp_path, str(folder))


def test_a_teacher_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    check_refused(OSError, "no/such-teacher is neither a folder nor a model that", tmp_path, "no/such-teacher")


def test_missing_text_is_noticed_before_the_teacher_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no file"):
        from_teacher(tmp_path, calibration_data=str(tmp_path / "absent.txt"))  # a folder without a teacher


def test_a_full_disk_is_noticed_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"MiB, 0\.00 MiB are free"):
        from_teacher(
            letter_teacher(),
            letter_tokenizer(),
            calibration_data=text_file(tmp_path / "text.txt"),
            calibration_tokens=TOKENS,
            sequence_length=LENGTH,
            checkpoint_dir=tmp_path / "parts",
        )
    assert not (tmp_path / "parts").exists()


def test_an_unreviewed_family_is_converted_on_request_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(REVIEWED_FAMILIES, "qwen3")
    given, text = (letter_teacher(), letter_tokenizer()), text_file(tmp_path / "text.txt")
    check_refused(UnreviewedTeacherError, "'qwen3' is not reviewed", tmp_path, *given)
    student = from_teacher(*given, calibration_data=text, allow_unreviewed=True, **QUICK)
    assert student.config.linear_layers


def test_a_student_is_no_teacher(tmp_path: Path) -> None:
    text = text_file(tmp_path / "text.txt")
    student = from_teacher(letter_teacher(), letter_tokenizer(), calibration_data=text, **QUICK)
    check_refused(ValueError, "already a hybrid", tmp_path, student, letter_tokenizer())
