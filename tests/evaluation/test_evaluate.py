# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""All measures together, of several models and of their teacher once."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import hf_tc
from hf_tc.assets import sample_text_path, tiny_teacher_path
from hf_tc.data.token_blocks import CalibrationDataError
from hf_tc.evaluation import evaluate as module
from hf_tc.evaluation.evaluate import Evaluator, Measures


@pytest.fixture(scope="module")
def teacher() -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_teacher_path())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(tiny_teacher_path())


def test_without_text_the_packaged_sample_is_used(teacher: Any, tokenizer: Any) -> None:
    options: dict[str, Any] = {"sequence_length": 64, "max_tokens": 256, "batch_size": 4, "show_progress": False}
    found = hf_tc.evaluate(teacher, tokenizer, recall=[4], **options)
    assert found.perplexity == hf_tc.evaluate(teacher, tokenizer, sample_text_path("heldout"), **options).perplexity
    assert found.recall is not None
    assert (found.recall.passages, found.recall.passage_tokens) == (64, 64)
    assert found.recall.second_copy_nll < found.recall.first_copy_nll - 0.3  # a little, as small as it is
    assert found.recall.lookup_accuracy.keys() == {4}
    assert (found.teacher, found.tasks, found.generation) == (None, None, None)


def test_the_teacher_is_measured_once(teacher: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = AutoModelForCausalLM.from_pretrained(tiny_teacher_path()).train()
    with torch.no_grad():
        other.lm_head.weight.mul_(0.5)
    asked, measured = [], module.measure_recall

    def noting(model: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(model)
        return measured(model, *arguments, **options)

    monkeypatch.setattr(module, "measure_recall", noting)
    measures = Measures.prepare(tokenizer, sequence_length=64, max_tokens=128, recall=[0])
    evaluator = Evaluator(measures, teacher, batch_size=8, show_progress=False)
    first, second = evaluator.evaluation_of(teacher), evaluator.evaluation_of(other)
    assert [model is teacher for model in asked] == [True, True, False]
    assert first.teacher is not None
    assert first.recall == first.teacher.recall
    assert second.teacher == first.teacher
    assert second.teacher_perplexity == first.perplexity
    assert second.recall != first.recall
    assert other.training


def test_refusals_before_anything_is_measured(tokenizer: Any) -> None:
    with pytest.raises(CalibrationDataError, match="one block of sequence_length needs 64"):
        Measures.prepare(tokenizer, [{"text": "Short."}], sequence_length=4, recall=True)
    with pytest.raises(ValueError, match="task_rows is 0"):
        Measures.prepare(tokenizer, task_rows=0)
    text = [{"text": "The lamp was out and nobody knew why it was so. " * 8}]
    with pytest.raises(ValueError, match="has 1 whole passage of 64 tokens; recall needs at least 2"):
        Measures.prepare(tokenizer, text, sequence_length=4, recall=True)
    with pytest.raises(ValueError, match="batch_size is 0"):
        Evaluator(Measures.prepare(tokenizer, max_tokens=64, sequence_length=64), batch_size=0)
