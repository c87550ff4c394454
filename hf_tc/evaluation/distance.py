# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How far models are from their teacher on one text, the teacher having run once."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tc.evaluation.kd_loss import IGNORE_INDEX, Objective, chunked_metrics, next_token_targets
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.teachers.offloading import execution_device


class DistanceFromTeacher:
    """KL(teacher || model) on a text. The teacher runs once; what entered its head is kept, `tokens x C`.

    Args:
        teacher: in eval mode, as every model measured.
        blocks: token ids `[N, T]`.
        batch_size: blocks per forward.
        counted: `[N, T]`, the tokens whose predictions are compared; by default all. The first of a block has none.
    """

    def __init__(
        self, teacher: PreTrainedModel, blocks: Tensor, batch_size: int, counted: Tensor | None = None
    ) -> None:
        self._teacher = BackboneThenHead(teacher)
        targets = next_token_targets(blocks if counted is None else blocks.masked_fill(~counted, IGNORE_INDEX))
        device = execution_device(teacher)
        self._batches = [part.to(device) for part in blocks.split(batch_size)]
        self._targets = [part.to(device) for part in targets.split(batch_size)]
        self._tokens = int((targets != IGNORE_INDEX).sum())
        with torch.no_grad():
            self._hidden = [self._teacher.hidden_states({"input_ids": rows}) for rows in self._batches]

    @torch.no_grad()
    def __call__(self, model: PreTrainedModel) -> tuple[float, float]:
        """(KL, negative log-likelihood of the text under the model), both in nats per counted token."""
        parts, sums = BackboneThenHead(model), torch.zeros(2, dtype=torch.float64)
        for rows, targets, teacher_hidden in zip(self._batches, self._targets, self._hidden, strict=True):
            metrics = chunked_metrics(
                parts.lazy_logits(parts.hidden_states({"input_ids": rows})),
                self._teacher.lazy_logits(teacher_hidden),
                targets,
                Objective(),
                chunk_tokens=parts.tokens_at_once,
            )
            sums += torch.stack([metrics.kl.double().sum(), metrics.student_nll.double().sum()]).cpu()
        kl, nll = (sums / self._tokens).tolist()
        return kl, nll
