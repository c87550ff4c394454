# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How good is a model on blocks of text, and how close is it to its teacher?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_tc.evaluation.figures import Evaluation
from hf_tc.evaluation.kd_loss import Objective, chunked_metrics, next_token_targets, perplexity_from_nll
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.teachers.nope_layers import evaluating
from hf_tc.teachers.offloading import execution_device
from hf_tc.teachers.vocabulary import check_vocabularies_agree

EVAL_TOKENS = 16_384  # on which the perplexity of every stage of a conversion is measured


def perplexity(
    model: PreTrainedModel,
    blocks: Tensor,
    *,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    show_progress: bool = False,
) -> float:
    """Perplexity of a causal LM on blocks of token ids [N, T]; arguments as `evaluate_blocks`."""
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
    """Perplexity of a causal LM on blocks of token ids [N, T], T at least 2.

    With a teacher also KL, top-1 agreement and the teacher's perplexity.
    Logits exist of `kd_loss.tokens_at_once` together, sums are kept in fp64.

    Args:
        batch_size: blocks per forward pass.
        device: where to move the models first; by default they stay where they are.
    """
    if blocks.dim() != 2 or blocks.shape[0] < 1 or blocks.shape[1] < 2:
        raise ValueError(
            f"blocks has shape {tuple(blocks.shape)}; it must be [N, T] with N at least 1 and T at least 2."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    if teacher is not None:
        check_vocabularies_agree(model, teacher)
    with ready(model, device):
        if teacher is None:
            return _evaluate_in_eval_mode(model, blocks, None, batch_size, show_progress)
        with ready(teacher, device):
            return _evaluate_in_eval_mode(model, blocks, teacher, batch_size, show_progress)


@contextmanager
def ready(model: PreTrainedModel, device: torch.device | str | None) -> Iterator[None]:
    """The model on the device, if one is given, and in eval mode; afterwards each module is in the mode it was in."""
    if device is not None:
        model.to(torch.device(device))  # type: ignore[arg-type]  # `to` is wrapped
    with evaluating(model):
        yield


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
            sums[0] += token_nll(student_parts, rows).sum()
        else:
            sums += _summed_metrics(student_parts, teacher_parts, rows)
    tokens = blocks.shape[0] * (blocks.shape[1] - 1)
    nll, kl, agreement, teacher_nll = (sums / tokens).tolist()
    if teacher is None:
        return Evaluation(perplexity_from_nll(nll), tokens)
    return Evaluation(perplexity_from_nll(nll), tokens, kl, agreement, perplexity_from_nll(teacher_nll))


def token_nll(parts: BackboneThenHead, rows: Tensor) -> Tensor:
    """Negative log-likelihood in nats of every token of rows [B, T] but the first, [B, T - 1] fp64 on the CPU."""
    rows = rows.to(execution_device(parts.model.get_input_embeddings()))
    hidden = parts.hidden_states({"input_ids": rows})[:, :-1].flatten(0, 1)
    size = parts.tokens_at_once
    nll = []
    for chunk, targets in zip(hidden.split(size), rows[:, 1:].flatten().split(size), strict=True):
        logits = parts.logits(chunk).float()
        nll.append(F.cross_entropy(logits, targets.to(logits.device), reduction="none").double().cpu())
    return torch.cat(nll).view(len(rows), -1)


def _summed_metrics(student: BackboneThenHead, teacher: BackboneThenHead, rows: Tensor) -> Tensor:
    rows = rows.to(execution_device(student.model.get_input_embeddings()))
    teacher_rows = rows.to(execution_device(teacher.model.get_input_embeddings()))
    metrics = chunked_metrics(
        student.lazy_logits(student.hidden_states({"input_ids": rows})),
        teacher.lazy_logits(teacher.hidden_states({"input_ids": teacher_rows})),
        next_token_targets(rows),
        Objective(),
        chunk_tokens=student.tokens_at_once,
    )
    per_token = torch.stack([metrics.student_nll, metrics.kl, metrics.top1_agreement, metrics.teacher_nll])
    return per_token.cpu().double().sum(-1)
