# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Text given in place of rows, data that are empty, and sequences longer than a model's positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from distillation_runs import config
from student_folders import VOCABULARY, letter_tokenizer
from tiny_causal_lms import labelled_examples, tiny_llama, tiny_qwen3
from tiny_models import student as tiny_student

from hf_tc.data.row_files import CalibrationDataError
from hf_tc.distillation import DistillationTrainer
from hf_tc.teachers.positions import most_positions

TEXTS = ["abcdefgh ijk", "lmnop qrstuvwxyz", "some text"]
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def trainer_of(output: Path, train: Any = None, evaluated: Any = None, **changes: Any) -> DistillationTrainer:
    data_collator = changes.pop("data_collator", None)
    return DistillationTrainer(
        tiny_student(vocab_size=len(VOCABULARY)),
        tiny_qwen3(vocab_size=len(VOCABULARY)),
        config(output, **{"max_steps": 1, "sequence_length": 8, **changes}),
        data_collator,
        train_dataset=train,
        eval_dataset=evaluated,
        processing_class=letter_tokenizer(),
    )


def rows_of(dataset: Any) -> list[list[int]]:
    return [example["input_ids"].tolist() for example in dataset]


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    """The same text, in every form that is no row."""
    path, lines = tmp_path / "texts.txt", tmp_path / "texts.jsonl"
    path.write_text("\n<|endoftext|>\n".join(TEXTS))
    lines.write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
    return {
        "a list of texts": TEXTS,
        "texts.txt": path,
        "a given text": path.read_text(),
        "texts.jsonl": str(lines),
        "texts.txt, ": [str(path)],
    }


def test_text_is_learned_in_every_form_that_the_command_line_takes(sources: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"text": text} for text in TEXTS]
    expected = trainer_of(tmp_path, rows, rows)
    known = expected.evaluate()["eval_kl"]
    for name, source in sources.items():
        trainer = trainer_of(tmp_path, source, source)
        assert rows_of(trainer.train_dataset) == rows_of(expected.train_dataset)
        assert trainer.evaluate()["eval_kl"] == pytest.approx(known)
        assert trainer.about_run["data"] == name.removesuffix(", ")
        trainer.train()
    by_name = {"first": TEXTS[:1], "all": str(sources["texts.txt"])}
    metrics = trainer_of(tmp_path, evaluated=by_name).evaluate()
    assert metrics["eval_all_kl"] == pytest.approx(known)
    assert metrics["eval_first_kl"] != pytest.approx(known)
    assert expected.evaluate(str(sources["texts.txt"]))["eval_kl"] == pytest.approx(known)
    assert len(trainer_of(tmp_path, sources["texts.txt"], tokens=16).train_dataset) == 2


def test_of_splits_the_one_to_train_on_is_taken(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"text": text} for text in TEXTS])
    splits = datasets.DatasetDict(train=rows, test=rows.select([0]))
    assert rows_of(trainer_of(tmp_path, splits).train_dataset) == rows_of(trainer_of(tmp_path, rows).train_dataset)
    with pytest.raises(ValueError, match=r"is a DatasetDict with \['test'\], none of them 'train'"):
        trainer_of(tmp_path, datasets.DatasetDict(test=rows))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "train_dataset is empty; it must hold text or examples"),
        ({}, "train_dataset is a dict with "),
        ("/no/such/file.txt", "There is no file /no/such/file.txt"),
        ("a short sentence", "'a short sentence' is no existing file"),
        ([*TEXTS, {"text": "a"}], "If it is meant as text, give it as"),
        ([[3, 4, 5]], "not text and no list of messages"),
        ([TALK], "no {% generation %} block"),
    ],
)
def test_what_is_no_data_is_refused_in_words(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, data)


def test_data_to_evaluate_on_is_not_empty(tmp_path: Path) -> None:
    for data in ([], {}):
        with pytest.raises(ValueError, match=r"eval_dataset is empty; .* or leave it out"):
            trainer_of(tmp_path, TEXTS, data)
    with pytest.raises(ValueError, match=r"eval_dataset\['b'\] is empty"):
        trainer_of(tmp_path, TEXTS, {"a": TEXTS, "b": []})
    with pytest.raises(CalibrationDataError, match="holds no text"):
        trainer_of(tmp_path, TEXTS).evaluate([""])


def test_a_text_is_not_for_a_collator_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train_dataset is a str, and a data_collator is given"):
        trainer_of(tmp_path, "text.txt", data_collator=lambda features: {})
    assert trainer_of(tmp_path, TEXTS, data_collator=lambda features: {}).train_dataset is TEXTS


def test_tokens_are_of_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokens is 16, and train_dataset holds tokens or has a collator of its own"):
        trainer_of(tmp_path, labelled_examples(4), tokens=16)


def test_rows_longer_than_the_positions_of_a_model_are_refused(tmp_path: Path) -> None:
    assert (most_positions(tiny_student()), most_positions(tiny_qwen3())) == (128, 2048)
    long = {"sequence_length": 1024}
    for data in ({"train": TEXTS}, {"evaluated": TEXTS}, {"train": [{"text": "abc"}]}):
        told = r"sequence_length is 1024, and the student has 128 positions: .* \(--sequence-length\) to 128 or less"
        with pytest.raises(ValueError, match=told):
            trainer_of(tmp_path, **data, **long)
    with pytest.raises(ValueError, match="curriculum has sequences of 1024 tokens, and the student has 128 positions"):
        trainer_of(tmp_path, TEXTS, curriculum=["1024:8", "1024:1024"])
    trainer_of(tmp_path, labelled_examples(4), **long)  # of which no rows are made


def test_positions_are_asked_of_a_folder_before_it_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    tiny_qwen3(max_position_embeddings=64).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"damaged")
    arguments = config(tmp_path, sequence_length=128)
    for teacher in (folder, str(folder)):
        with pytest.raises(ValueError, match="sequence_length is 128, and the teacher has 64 positions"):
            DistillationTrainer(tiny_llama(), teacher, arguments, train_dataset=TEXTS)


def test_examples_longer_than_the_positions_of_a_model_are_refused(tmp_path: Path) -> None:
    def train(example: dict[str, Any]) -> None:
        trainer_of(tmp_path, [example] * 4).train()

    tokens = torch.full((300,), 4)
    with pytest.raises(ValueError, match="A batch has a sequence of 300 tokens, and the models have 128 positions"):
        train({"input_ids": tokens})
    with pytest.raises(ValueError, match="A batch has a sequence of 300 tokens"):
        train({"input_ids": tokens, "position_ids": torch.arange(300)})
    train({"input_ids": tokens, "position_ids": torch.arange(100).repeat(3)})  # three documents
    train({"input_ids": tokens, "attention_mask": (torch.arange(300) < 120).long(), "labels": tokens})
