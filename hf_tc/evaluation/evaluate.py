# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How good is a model, and how close is it to its teacher: on text, in recall, in tasks and in what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tc.assets import sample_text_path
from hf_tc.data.repeated_passages import PASSAGE_TOKENS
from hf_tc.data.token_blocks import blocks_of, joined_tokens, read_documents, start_of_texts, token_blocks
from hf_tc.evaluation.figures import Evaluation
from hf_tc.evaluation.generation_checks import check_generation
from hf_tc.evaluation.perplexity import evaluate_blocks, ready
from hf_tc.evaluation.recall import (
    DISTANCES,
    PASSAGES,
    RecallRows,
    check_positions,
    measure_recall,
    recall_rows,
)
from hf_tc.evaluation.tasks import load_tasks, measure_tasks
from hf_tc.modeling.out_of_memory import memory_advice
from hf_tc.teachers.adapters import check_not_wrapped
from hf_tc.teachers.positions import check_has_positions
from hf_tc.teachers.vocabulary import check_tokenizers_agree, check_vocabulary

LESS_MEMORY = (
    'Set a smaller batch_size, a shorter sequence_length, or device="cpu" where the models themselves do not fit.'
)


def evaluate(
    model: PreTrainedModel,
    tokenizer: Any,
    source: Any = None,
    teacher: PreTrainedModel | None = None,
    *,
    sequence_length: int = 1024,
    max_tokens: int | None = None,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    show_progress: bool = True,
    tasks: str | Path | Sequence[str | Path] = (),
    task_rows: int | None = None,
    recall: bool | Sequence[int] = False,
    generation: bool = False,
) -> Evaluation:
    """Perplexity of a causal LM on text; with a teacher also KL, top-1 agreement and the teacher's perplexity.

    On demand also recall, tasks and checks of what it says, all of them of the teacher too.

    Args:
        model, teacher: any decoder-only causal LMs with the same vocabulary.
        tokenizer: the tokenizer of both.
        source: files, a Hub dataset, a `datasets` object or texts; see `hf_tc.data.token_blocks.read_documents`. By
            default the held-out sample that ships with hf_tc.
        sequence_length: tokens per block; blocks are independent.
        max_tokens: tokens of text to use for the perplexity at most; all by default.
        batch_size: blocks, or rows of a task, per forward pass. Logits of blocks are held of `kd_loss.tokens_at_once`
            at most.
        device: where to move the models first; by default they stay where they are.
        tasks: names of lm-eval's tasks, and files of JSON lines (`hf_tc.evaluation.task_files` has their form). Needs
            the extra `eval`.
        task_rows: rows of each task to use, from its start; all by default.
        recall: measure recall in context on the text, look-up at the default distances or at these (tokens in between).
        generation: check greedy answers to a few questions.

    Raises:
        CalibrationDataError: unreadable or too little text, or a tokenizer with more tokens than a model.
        ValueError: the two vocabularies differ, in size or in what the ids mean, or a model is not decoder-only; no
            such task, a task's data cannot be had, or its file breaks a rule; blocks are longer than a model's
            table of positions (beyond rotary ones it warns); a distance is beyond the text or the model.
        ImportError: tasks without the extra `eval`.
    """
    measures = Measures.prepare(
        tokenizer,
        source,
        sequence_length=sequence_length,
        max_tokens=max_tokens,
        tasks=tasks,
        task_rows=task_rows,
        recall=recall,
        generation=generation,
    )
    evaluator = Evaluator(measures, teacher, batch_size=batch_size, device=device, show_progress=show_progress)
    return evaluator.evaluation_of(model)


@dataclass(frozen=True)
class Measures:
    """What to measure: text and tasks, read and checked, before any model is loaded."""

    tokenizer: Any
    blocks: Tensor
    recall: RecallRows | None = None
    tasks: tuple[Any, ...] = ()
    task_rows: int | None = None
    generation: bool = False

    @classmethod
    def prepare(
        cls,
        tokenizer: Any,
        source: Any = None,
        *,
        sequence_length: int = 1024,
        max_tokens: int | None = None,
        tasks: str | Path | Sequence[str | Path] = (),
        task_rows: int | None = None,
        recall: bool | Sequence[int] = False,
        generation: bool = False,
    ) -> Measures:
        """Arguments and errors as `evaluate`."""
        if task_rows is not None and task_rows < 1:
            raise ValueError(f"task_rows is {task_rows}; it must be at least 1.")
        source = sample_text_path("heldout") if source is None else source
        blocks = token_blocks(read_documents(source, max_tokens), tokenizer, sequence_length, max_tokens)
        rows = None
        if recall is not False:
            rows = _recall_rows(tokenizer, source, DISTANCES if recall is True else recall)
        names = (tasks,) if isinstance(tasks, str | Path) else tuple(tasks)
        return cls(tokenizer, blocks, rows, tuple(load_tasks(names)) if names else (), task_rows, generation)

    def __bool__(self) -> bool:
        """Whether there is more to measure than perplexities."""
        return self.recall is not None or bool(self.tasks) or self.generation


def _recall_rows(tokenizer: Any, source: Any, distances: Sequence[int]) -> RecallRows:
    """From as much of the text as passages and what lies in between need."""
    wanted = max(PASSAGES * PASSAGE_TOKENS, 2 * max(distances, default=0))
    passages = blocks_of(joined_tokens(read_documents(source, wanted), tokenizer, wanted), [], PASSAGE_TOKENS)
    return recall_rows(passages, start_of_texts(tokenizer), distances)


class Evaluator:
    """Measures one model after the other by the same measures, and their teacher once."""

    def __init__(
        self,
        measures: Measures,
        teacher: PreTrainedModel | None = None,
        *,
        batch_size: int = 1,
        device: torch.device | str | None = None,
        show_progress: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        self.measures, self.teacher = measures, teacher
        self.batch_size, self.device, self.show_progress = batch_size, device, show_progress
        if teacher is not None:
            self._check(teacher, "teacher")

    def evaluation_of(self, model: PreTrainedModel) -> Evaluation:
        """All figures of a model, and of the teacher beside it; errors as `evaluate`."""
        self._check(model, "model")
        with memory_advice(LESS_MEMORY):
            return self._measured(model)

    def _measured(self, model: PreTrainedModel) -> Evaluation:
        found = evaluate_blocks(
            model,
            self.measures.blocks,
            self.teacher,
            batch_size=self.batch_size,
            device=self.device,
            show_progress=self.show_progress,
        )
        if not self.measures:
            return found
        if self.teacher is not None:
            assert found.teacher_perplexity is not None
            of_teacher = Evaluation(found.teacher_perplexity, found.tokens, **self._further_of_teacher)
            found = replace(found, teacher=of_teacher)
        return replace(found, **self._further(model))

    def _check(self, model: PreTrainedModel, role: str) -> None:
        tokenizer = self.measures.tokenizer
        check_not_wrapped(model, role)
        check_vocabulary(tokenizer, model)
        check_tokenizers_agree({"The tokenizer given": tokenizer}, model, role)
        check_has_positions({role: model}, self.measures.blocks.shape[1])
        if self.measures.recall is not None:
            check_positions(model, self.measures.recall)

    @cached_property
    def _further_of_teacher(self) -> dict[str, Any]:
        assert self.teacher is not None
        return self._further(self.teacher)

    def _further(self, model: PreTrainedModel) -> dict[str, Any]:
        """What is measured beside the perplexity, as fields of an `Evaluation`."""
        measures, further = self.measures, dict[str, Any]()
        with ready(model, self.device):
            if measures.recall is not None:
                tokens = self.batch_size * measures.blocks.shape[1]
                further["recall"] = measure_recall(
                    model, measures.recall, tokens_per_pass=tokens, show_progress=self.show_progress
                )
            if measures.generation:
                further["generation"] = check_generation(model, measures.tokenizer)
            if measures.tasks:
                further["tasks"] = measure_tasks(
                    model,
                    measures.tokenizer,
                    list(measures.tasks),
                    rows=measures.task_rows,
                    batch_size=self.batch_size,
                    show_progress=self.show_progress,
                )
        return further
