# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A tokenizer with as many tokens but other ids is refused wherever two models, or a model and a text, meet."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_lines import DISTILLATION, refused
from conversion_inputs import QUICK, letter_teacher, teacher_folder, text_file
from student_folders import letter_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hf_tc.convert import from_teacher, select_layers
from hf_tc.distillation import DistillationConfig, DistillationTrainer
from hf_tc.evaluation.evaluate import evaluate
from hf_tc.teachers.vocabulary import check_tokenizers_agree, tokenizer_of

MESSAGE = r"the teacher's differ: 'a' is (\d+) here, (\d+) there, one of 2 such tokens.*Use a teacher with"


def exchanged(folder: Path, changes: dict[str, str]) -> PreTrainedTokenizerFast:
    """The letter tokenizer with other tokens in the places of some."""
    letter_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["model"]["vocab"] = {changes.get(token, token): index for token, index in data["model"]["vocab"].items()}
    path.write_text(json.dumps(data), encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_folder(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model beside a tokenizer in which a and b have changed places."""
    folder = teacher_folder(tmp_path_factory.mktemp("other"))
    exchanged(folder, {"a": "b", "b": "a"})
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("known", ["processing_class", "student's folder", "student's tokenizer"])
def test_distillation_refuses_a_teacher_with_another_tokenizer(
    known: str, loaded: bool, teacher: Path, other: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"args": DistillationConfig(str(tmp_path), use_cpu=True, report_to="none")}
    student = AutoModelForCausalLM.from_pretrained(teacher) if known == "student's folder" else letter_teacher()
    if known == "processing_class":
        arguments["processing_class"] = letter_tokenizer()
    elif known == "student's tokenizer":
        student.tokenizer = letter_tokenizer()
    given = AutoModelForCausalLM.from_pretrained(other) if loaded else str(other)
    with pytest.raises(ValueError, match=MESSAGE) as caught:
        DistillationTrainer(student, given, **arguments)
    assert ("processing_class" in str(caught.value)) == (known == "processing_class")
    DistillationTrainer(student, AutoModelForCausalLM.from_pretrained(teacher) if loaded else str(teacher), **arguments)


def test_commands_refuse_it_in_one_line(
    teacher: Path, other: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [teacher, "--teacher", other, "--data", text]
    out = tmp_path / "out"
    for command in (["evaluate", *options], ["distill", *options, "--out", out, *DISTILLATION]):
        assert "'a' is" in refused(capsys, *command)
    assert not out.exists()


def test_evaluation_and_conversion_refuse_a_tokenizer_that_is_not_the_model_s(
    teacher: Path, other: Path, text: Path
) -> None:
    model, wrong = AutoModelForCausalLM.from_pretrained(teacher), AutoTokenizer.from_pretrained(other)
    with pytest.raises(ValueError, match="The tokenizer given and the model's differ: 'b' is 4 here"):
        evaluate(model, wrong, text, sequence_length=32, show_progress=False)
    for convert, options in ((from_teacher, QUICK), (select_layers, {})):
        for given in (teacher, model):
            with pytest.raises(ValueError, match="The tokenizer given and the teacher's differ: 'b' is 4 here"):
                convert(given, wrong, calibration_data=text, **options)


def test_what_is_no_difference(teacher: Path, tmp_path: Path) -> None:
    more = letter_tokenizer()
    more.add_tokens(["<call>", "<answer>"])
    check_tokenizers_agree({"It": more}, teacher)  # tokens that only one has
    more.save_pretrained(tmp_path)
    check_tokenizers_agree({"It": more, "another": letter_tokenizer(), "nothing": None}, tmp_path)
    named = letter_tokenizer()
    named.add_tokens(["<tool>", "<answer>"])  # the same ids, one of them with another name
    check_tokenizers_agree({"It": named}, tmp_path)


def test_other_tokens_at_the_same_ids_and_added_tokens_that_moved_are_differences(
    teacher: Path, tmp_path: Path
) -> None:
    spelt_otherwise = exchanged(tmp_path / "spelling", {"a": "_a", "b": "_b"})
    with pytest.raises(ValueError, match=r"\d+ is '_a' here, 'a' there, one of 2 such ids"):
        check_tokenizers_agree({"It": spelt_otherwise}, teacher)
    ours, theirs = letter_tokenizer(), letter_tokenizer()
    ours.add_tokens(["<x>", "<y>"])
    theirs.add_tokens(["<y>", "<x>"])
    theirs.save_pretrained(tmp_path / "moved")
    with pytest.raises(ValueError, match="'<x>' is 62 here, 63 there"):
        check_tokenizers_agree({"It": ours}, tmp_path / "moved")


def test_a_tokenizer_that_is_not_known_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    letter_teacher().save_pretrained(tmp_path)
    assert tokenizer_of(tmp_path) is tokenizer_of(letter_teacher()) is None
    check_tokenizers_agree({"It": letter_tokenizer()}, tmp_path)
    assert not caplog.records
    letter_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    check_tokenizers_agree({"It": letter_tokenizer()}, tmp_path)
    assert "cannot be loaded, so its vocabulary is not compared" in caplog.text
