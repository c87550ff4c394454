# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`from_teacher`: a teacher by name or as an object, what it leaves alone, and everything it refuses."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conversion_inputs import (
    LENGTH,
    QUICK,
    TOKENS,
    circumstances,
    equal_states,
    letter_teacher,
    state_of,
    teacher_folder,
    text_file,
)
from hf_tc.modeling import HybridGDNForCausalLM
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

from hf_tc import convert
from hf_tc.calibration.data import CalibrationDataError
from hf_tc.convert import SHIPPED_SAMPLE, calibration_blocks, calibration_documents, from_teacher
from hf_tc.convert_layers import ConversionSettings
from hf_tc.families import REVIEWED_FAMILIES
from hf_tc.teachers import UnreviewedTeacherError

SMALL_BERT = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL_T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return text_file(tmp_path / "text.txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_folder(tmp_path_factory.mktemp("teacher"))


# Teachers as objects and by name


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

    monkeypatch.setattr("hf_tc.fit_layer.align_layer", fails)
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


def test_going_on_from_a_checkpoint_folder(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"calibration_data": text, **QUICK}
    first = from_teacher(letter_teacher(), letter_tokenizer(), checkpoint_dir=tmp_path / "part", **options)

    def not_again(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a finished layer was fitted again")

    monkeypatch.setattr("hf_tc.fit_layer.solve", not_again)
    again = from_teacher(letter_teacher(), letter_tokenizer(), checkpoint_dir=tmp_path / "part", **options)
    assert equal_states(state_of(first), state_of(again))
    with pytest.raises(ValueError, match=r"settings\.seed: 0 there, 7 now"):
        from_teacher(letter_teacher(), letter_tokenizer(), checkpoint_dir=tmp_path / "part", seed=7, **options)


# Calibration text


def settings_of(**changes: Any) -> ConversionSettings:
    return ConversionSettings(**{"calibration_tokens": TOKENS, "sequence_length": LENGTH, **changes})


def test_blocks_are_shuffled_by_the_seed(text: Path) -> None:
    tokenizer = letter_tokenizer()
    documents = calibration_documents(text)
    blocks = [calibration_blocks(*documents, tokenizer, settings_of(seed=seed)) for seed in (0, 0, 1)]
    assert blocks[0].shape == (TOKENS // LENGTH, LENGTH)
    assert torch.equal(blocks[0], blocks[1])
    assert not torch.equal(blocks[0], blocks[2])
    as_sets = [{tuple(row) for row in some.tolist()} for some in blocks]
    assert as_sets[0] == as_sets[2]
    ids = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"][:TOKENS]
    assert as_sets[0] == {tuple(ids[i : i + LENGTH]) for i in range(0, TOKENS, LENGTH)}


def messages_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(convert.logger, "warning", messages.append)
    return messages


def test_without_text_the_shipped_sample_is_used_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = messages_of(monkeypatch)
    documents, name = calibration_documents(None)
    blocks = calibration_blocks(documents, name, letter_tokenizer(), settings_of())
    assert name == SHIPPED_SAMPLE
    assert len(blocks) == TOKENS // LENGTH
    assert len(messages) == 1
    assert SHIPPED_SAMPLE in messages[0]


def test_missing_text_is_noticed_before_the_teacher_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no file"):
        from_teacher("no-such-org/no-such-teacher", calibration_data=str(tmp_path / "absent.txt"))


def test_a_full_disk_is_noticed_before_the_work(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"GiB, 0\.00 GiB are free"):
        from_teacher(
            letter_teacher(),
            letter_tokenizer(),
            calibration_data=text,
            calibration_tokens=TOKENS,
            sequence_length=LENGTH,
            checkpoint_dir=tmp_path / "parts",
        )
    assert not (tmp_path / "parts").exists()


def test_less_text_than_asked_for_is_used_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = messages_of(monkeypatch)
    short = text_file(tmp_path / "short.txt", 100)
    blocks = calibration_blocks(*calibration_documents(short), letter_tokenizer(), settings_of())
    assert len(blocks) == 3
    assert len(messages) == 1
    assert "96 of the 256 tokens" in messages[0]


# Bad input


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


def check_refused(error: type[Exception], message: str, unfinished: Path, *args: Any, **options: Any) -> None:
    """Refused with this message, before the checkpoint folder was made."""
    with pytest.raises(error, match=message):
        from_teacher(*args, checkpoint_dir=unfinished, **{**QUICK, **options})
    assert not unfinished.exists()


@pytest.mark.parametrize("kind", TEACHERS)
def test_teachers_that_cannot_be_converted_are_refused(kind: str, text: Path, tmp_path: Path) -> None:
    make, message = TEACHERS[kind]
    check_refused(ValueError, message, tmp_path / "unfinished", make(), letter_tokenizer(), calibration_data=text)


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_that_make_no_sense_are_refused(kind: str, text: Path, tmp_path: Path) -> None:
    options, message = OPTIONS[kind]
    options = {"calibration_data": text, **options}
    check_refused(ValueError, message, tmp_path / "unfinished", letter_teacher(), letter_tokenizer(), **options)


@pytest.mark.parametrize("letters", [10, LENGTH, 2 * LENGTH - 1])
def test_too_little_text_is_refused(letters: int, tmp_path: Path) -> None:
    short = text_file(tmp_path / "short.txt", letters)
    options = {"calibration_data": short}
    check_refused(
        CalibrationDataError, "Give more text", tmp_path / "unfinished", letter_teacher(), letter_tokenizer(), **options
    )


def test_empty_text_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("  \n")
    check_refused(
        CalibrationDataError,
        "holds no text",
        tmp_path / "unfinished",
        letter_teacher(),
        letter_tokenizer(),
        calibration_data=empty,
    )


def test_a_teachers_missing_shard_is_refused(text: Path, tmp_path: Path) -> None:
    folder = teacher_folder(tmp_path / "teacher", max_shard_size="20KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    check_refused(OSError, shards[1].name, tmp_path / "unfinished", str(folder), calibration_data=text)


def test_a_teacher_that_does_not_exist_is_refused(text: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    check_refused(OSError, "connect|offline|not a local", unfinished, "no/such-teacher", calibration_data=text)


def test_an_unreviewed_family_is_converted_on_request_alone(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(REVIEWED_FAMILIES, "qwen3")
    teacher, options = letter_teacher(), {"calibration_data": text}
    check_refused(
        UnreviewedTeacherError, "'qwen3' is not reviewed", tmp_path / "part", teacher, letter_tokenizer(), **options
    )
    student = from_teacher(teacher, letter_tokenizer(), calibration_data=text, allow_unreviewed=True, **QUICK)
    assert student.config.linear_layers


def test_a_student_is_no_teacher(text: Path, tmp_path: Path) -> None:
    student = from_teacher(letter_teacher(), letter_tokenizer(), calibration_data=text, **QUICK)
    check_refused(
        ValueError, "already a hybrid", tmp_path / "unfinished", student, letter_tokenizer(), calibration_data=text
    )
