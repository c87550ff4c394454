# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How far models are from their teacher on one text, the teacher having run once."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tc.evaluation.kd_loss import LazyLogits, Objective, chunked_metrics, next_token_targets
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.teachers.offloading import execution_device


class DistanceFromTeacher:
    """KL(teacher || model) on a text. The teacher runs once; what entered its head is kept, `tokens x C`.

    Args:
        teacher: in eval mode, as every model measured.
        blocks: token ids `[N, T]`.
        batch_size: blocks per forward.
    """

    def __init__(self, teacher: PreTrainedModel, blocks: Tensor, batch_size: int) -> None:
        self._teacher = BackboneThenHead(teacher)
        self._batches = [rows.to(execution_device(teacher)) for rows in blocks.split(batch_size)]
        self._tokens = blocks.shape[0] * (blocks.shape[1] - 1)
        with torch.no_grad():
            self._hidden = [self._teacher.hidden_states({"input_ids": rows}) for rows in self._batches]

    @torch.no_grad()
    def __call__(self, model: PreTrainedModel) -> tuple[float, float]:
        """(KL, negative log-likelihood of the text under the model), both in nats per token."""
        parts, sums = BackboneThenHead(model), torch.zeros(2, dtype=torch.float64)
        for rows, teacher_hidden in zip(self._batches, self._hidden, strict=True):
            metrics = chunked_metrics(
                LazyLogits(parts.logits, parts.hidden_states({"input_ids": rows})),
                LazyLogits(self._teacher.logits, teacher_hidden),
                next_token_targets(rows),
                Objective(),
                chunk_tokens=parts.tokens_at_once,
            )
            sums += torch.stack([metrics.kl.double().sum(), metrics.student_nll.double().sum()]).cpu()
        kl, nll = (sums / self._tokens).tolist()
        return kl, nll
