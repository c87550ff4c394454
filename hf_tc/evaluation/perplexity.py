# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How good is a model on a text, and how close is it to its teacher?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_tc.data.token_blocks import read_documents, token_blocks
from hf_tc.evaluation.kd_loss import LazyLogits, Objective, chunked_metrics, next_token_targets, perplexity_from_nll
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.teachers.adapters import check_not_wrapped
from hf_tc.teachers.offloading import execution_device
from hf_tc.teachers.vocabulary import check_tokenizers_agree, check_vocabularies_agree, check_vocabulary

EVAL_TOKENS = 16_384  # on which the perplexity of every stage of a conversion is measured


@dataclass(frozen=True)
class Evaluation:
    """Means over all predicted tokens: the first token of each block is given, all others are predicted."""

    perplexity: float
    tokens: int
    kl: float | None = None  # KL(teacher || student), nats per token
    top1_agreement: float | None = None  # share of tokens whose most likely next token is the teacher's
    teacher_perplexity: float | None = None

    def to_dict(self) -> dict[str, float | int]:
        """The figures that were measured, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def evaluate(
    model: PreTrainedModel,
    tokenizer: Any,
    source: Any,
    teacher: PreTrainedModel | None = None,
    *,
    sequence_length: int = 1024,
    max_tokens: int | None = None,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    show_progress: bool = True,
) -> Evaluation:
    """Perplexity of a causal LM on text; with a teacher also KL, top-1 agreement and the teacher's perplexity.

    Args:
        model, teacher: any decoder-only causal LMs with the same vocabulary.
        tokenizer: the tokenizer of both.
        source: files, a Hub dataset, a `datasets` object or texts; see `hf_tc.data.token_blocks.read_documents`.
        sequence_length: tokens per block; blocks are independent.
        max_tokens: tokens of text to use at most; all by default.
        batch_size: blocks per forward pass. Logits are held of `kd_loss.tokens_at_once` at most.
        device: where to move the models first; by default they stay where they are.

    Raises:
        CalibrationDataError: unreadable or too little text, or a tokenizer with more tokens than a model.
        ValueError: the two vocabularies differ, in size or in what the ids mean, or a model is not decoder-only.
    """
    for checked, role in ((model, "model"), (teacher, "teacher")):
        if checked is not None:
            check_not_wrapped(checked, role)
            check_vocabulary(tokenizer, checked)
            check_tokenizers_agree({"The tokenizer given": tokenizer}, checked, role)
    blocks = token_blocks(read_documents(source, max_tokens), tokenizer, sequence_length, max_tokens)
    return evaluate_blocks(model, blocks, teacher, batch_size=batch_size, device=device, show_progress=show_progress)


def perplexity(
    model: PreTrainedModel,
    blocks: Tensor,
    *,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    show_progress: bool = False,
) -> float:
    """Perplexity of a causal LM on blocks of token ids [N, T]; arguments as `evaluate`."""
    return evaluate_blocks(model, blocks, batch_size=batch_size, device=device, show_progress=show_progress).perplexity


@torch.no_grad()
def evaluate_blocks(
    model: PreTrainedModel,
    blocks: Tensor,
    teacher: PreTrainedModel | None = None,
    *,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """`evaluate` on blocks of token ids [N, T], T at least 2; logits exist of `kd_loss.tokens_at_once` together.

    Sums are kept in fp64; training modes are left as found.
    """
    if blocks.dim() != 2 or blocks.shape[0] < 1 or blocks.shape[1] < 2:
        raise ValueError(
            f"blocks has shape {tuple(blocks.shape)}; it must be [N, T] with N at least 1 and T at least 2."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    if teacher is not None:
        check_vocabularies_agree(model, teacher)
    modes = [(checked, checked.training) for checked in (model, teacher) if checked is not None]
    for checked, _ in modes:
        if device is not None:
            checked.to(torch.device(device))  # type: ignore[arg-type]  # `to` is wrapped
        checked.eval()
    try:
        return _evaluate_in_eval_mode(model, blocks, teacher, batch_size, show_progress)
    finally:
        for checked, was_training in modes:
            checked.train(was_training)


def _evaluate_in_eval_mode(
    model: PreTrainedModel,
    blocks: Tensor,
    teacher: PreTrainedModel | None,
    batch_size: int,
    show_progress: bool,
) -> Evaluation:
    student_parts = BackboneThenHead(model)
    teacher_parts = None if teacher is None else BackboneThenHead(teacher)
    sums = torch.zeros(4, dtype=torch.float64)
    for rows in tqdm(blocks.split(batch_size), desc="Evaluating", unit="batch", disable=not show_progress):
        if teacher_parts is None:
            sums[0] += _summed_nll(student_parts, rows)
        else:
            sums += _summed_metrics(student_parts, teacher_parts, rows)
    tokens = blocks.shape[0] * (blocks.shape[1] - 1)
    nll, kl, agreement, teacher_nll = (sums / tokens).tolist()
    if teacher is None:
        return Evaluation(perplexity_from_nll(nll), tokens)
    return Evaluation(perplexity_from_nll(nll), tokens, kl, agreement, perplexity_from_nll(teacher_nll))


def _summed_nll(parts: BackboneThenHead, rows: Tensor) -> Tensor:
    rows = rows.to(execution_device(parts.model.get_input_embeddings()))
    hidden = parts.hidden_states({"input_ids": rows})[:, :-1].flatten(0, 1)
    size = parts.tokens_at_once
    chunks = zip(hidden.split(size), rows[:, 1:].flatten().split(size), strict=True)
    total = torch.zeros((), dtype=torch.float64)
    for chunk, targets in chunks:
        logits = parts.logits(chunk).float()
        total += F.cross_entropy(logits, targets.to(logits.device), reduction="none").double().sum().cpu()
    return total


def _summed_metrics(student: BackboneThenHead, teacher: BackboneThenHead, rows: Tensor) -> Tensor:
    rows = rows.to(execution_device(student.model.get_input_embeddings()))
    teacher_rows = rows.to(execution_device(teacher.model.get_input_embeddings()))
    metrics = chunked_metrics(
        LazyLogits(student.logits, student.hidden_states({"input_ids": rows})),
        LazyLogits(teacher.logits, teacher.hidden_states({"input_ids": teacher_rows})),
        next_token_targets(rows),
        Objective(),
        chunk_tokens=student.tokens_at_once,
    )
    per_token = torch.stack([metrics.student_nll, metrics.kl, metrics.top1_agreement, metrics.teacher_nll])
    return per_token.cpu().double().sum(-1)
