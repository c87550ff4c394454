# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Text sampled from a tiny teacher: how much of it, and the same after an interruption at any moment."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import letter_teacher
from student_folders import letter_tokenizer

from hf_tc.data.text_files import read_documents
from hf_tc.data.token_blocks import count_tokens, token_blocks
from hf_tc.memory import sampling_rows
from hf_tc.sampling import sampled_text as sampling
from hf_tc.sampling.sampled_text import ROUNDS_FILE, TEXT_FILE, sampled_text

TOKENS = 1500
QUICK = {"document_tokens": 60, "seed": 5}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_rows, "ROWS_ON_CPU", 12)


def test_as_many_tokens_of_each_kind_as_were_asked_for() -> None:
    teacher, tokenizer = letter_teacher(), letter_tokenizer()
    documents = sampled_text(teacher, tokenizer, TOKENS, **QUICK)
    for kind in (str, list):
        tokens = [count_tokens(document, tokenizer) for document in documents if isinstance(document, kind)]
        assert sum(tokens) >= TOKENS / 2 > sum(tokens) - max(tokens)
    assert token_blocks(documents, tokenizer, 50, TOKENS).numel() == TOKENS
    texts = [document for document in documents if isinstance(document, str)]
    assert len(set(texts)) == len(texts) > 10
    for kind, document_type in (("chat", list), ("free", str)):
        alone = sampled_text(teacher, tokenizer, 300, kind, **QUICK)
        assert {type(document) for document in alone} == {document_type}
    assert sampled_text(teacher, tokenizer, 300, **QUICK | {"seed": 6}) != sampled_text(
        teacher, tokenizer, 300, **QUICK
    )


def test_an_interrupted_sampling_goes_on_to_the_same_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, tokenizer = letter_teacher(), letter_tokenizer()
    whole = sampled_text(teacher, tokenizer, TOKENS, **QUICK)
    sample_round = sampling.sample_round
    rounds, stop_after = 0, 3

    def interrupted(*args: Any) -> Any:
        nonlocal rounds
        if rounds == stop_after:
            raise KeyboardInterrupt
        rounds += 1
        return sample_round(*args)

    monkeypatch.setattr(sampling, "sample_round", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sampled_text(teacher, tokenizer, TOKENS, folder=tmp_path, **QUICK)
        stop_after = 5
    log = tmp_path / ROUNDS_FILE
    assert len(log.read_text().splitlines()) == 5
    log.write_text(log.read_text()[:-20])  # the machine died while it wrote the last line
    monkeypatch.setattr(sampling_rows, "ROWS_ON_CPU", 3)  # and has less memory now
    stop_after = -1
    assert sampled_text(teacher, tokenizer, TOKENS, folder=tmp_path, **QUICK) == whole
    assert not log.exists()
    assert read_documents(tmp_path / TEXT_FILE) == whole
    monkeypatch.setattr(sampling, "sample_round", None)  # what is complete is read
    assert sampled_text(teacher, tokenizer, TOKENS, folder=tmp_path, **QUICK) == whole


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seed": 6}, "seed: 5 there, 6 now"), ({"tokens": 99}, "tokens"), ({"kind": "free"}, "kinds"), ({}, "teacher")],
)
def test_text_sampled_with_other_arguments_is_not_taken(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    given = {"teacher": letter_teacher(), "tokenizer": letter_tokenizer(), "tokens": 50, "folder": tmp_path, **QUICK}
    sampled_text(**given)
    if not changes:
        changes = {"teacher": letter_teacher(tie_word_embeddings=True)}
    with pytest.raises(ValueError, match=f"other arguments.*{named}"):
        sampled_text(**given | changes)


def test_rows_hold_text_and_messages(tmp_path: Path) -> None:
    documents = ["Grün\n", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    sampling.write_documents(tmp_path / "rows.jsonl", documents)
    assert [sorted(json.loads(line)) for line in (tmp_path / "rows.jsonl").open(encoding="utf-8")] == [
        ["text"],
        ["messages"],
    ]
    assert read_documents(tmp_path / "rows.jsonl") == documents


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_samples_in_bfloat16(tmp_path: Path) -> None:
    teacher, tokenizer = letter_teacher().to("cuda", torch.bfloat16), letter_tokenizer()
    documents = sampled_text(teacher, tokenizer, TOKENS, folder=tmp_path, **QUICK)
    assert sum(count_tokens(document, tokenizer) for document in documents) >= TOKENS
    assert read_documents(tmp_path / TEXT_FILE) == documents
