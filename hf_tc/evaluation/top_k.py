# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A teacher of which only the k likeliest next tokens are known, and exactly how likely all others are together.

The others count as one outcome, so that distributions over k + 1 outcomes are compared. With r and s the mass of the
others under teacher p and student q, and p', q' the distributions among them,

    KL(p || q) = KL over the k + 1 outcomes + r KL(p' || q')

so the loss is a lower bound of the KL and errs by no more than r times what the two differ by among tokens that the
teacher hardly considers; for k = V by nothing. Its gradient for the logits of the k tokens is exact, for those of the
others off by r (q' - p'), in sum at most 2 r. The reverse KL lacks s KL(q' || p'), and a jsd both kinds, against m'.

Log probabilities are those at temperature 1. What a temperature makes of the others cannot be told from their sum, so
distributions are softened for k = V alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# As columns of a batch or a data set; each [B, T], or [B, T, k].
TOP_K_COLUMNS = ("teacher_ids", "teacher_log_probs", "teacher_log_rest", "teacher_target_log_prob")


class TopK(NamedTuple):
    """What is known of a teacher's predictions at N positions, or [B, T] of them.

    ids: [N, k] tokens, the likeliest first and none twice.
    log_probs: [N, k], their log probabilities at temperature 1 in nats.
    log_rest: [N], log of the probability of all other tokens together; -inf where there are none.
    target_log_prob: [N], log probability of the token that follows in the text.
    """

    ids: Tensor
    log_probs: Tensor
    log_rest: Tensor
    target_log_prob: Tensor

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """Of each position, as `at` takes them back."""
        return tuple(tensor.detach() for tensor in self)

    def at(self, *rows: Tensor) -> TopK:
        """The same of some positions only, from their `rows`."""
        return TopK(*rows)

    def to(self, device: torch.device) -> TopK:
        return TopK(*(tensor.to(device) for tensor in self))

    def columns(self) -> dict[str, Tensor]:
        """The same by the names that they have in a batch."""
        return dict(zip(TOP_K_COLUMNS, self, strict=True))

    def outcomes(self, student_logits: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log probabilities of teacher and student for each outcome, both [N, k + 1], or [N, V] for k = V, in fp32.

        Raises:
            ValueError: a temperature other than 1 and fewer tokens than the vocabulary has.
        """
        logits, ids = student_logits.float() / temperature, self.ids.long()
        if ids.shape[-1] == logits.shape[-1]:
            return (self.log_probs.float() / temperature).log_softmax(-1), logits.log_softmax(-1).gather(-1, ids)
        check_temperature(temperature, ids.shape[-1])
        # Not 1 minus the sum of the k: a small rest would drown in its rounding.
        of_rest = logits.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
        log_q = torch.cat([logits.gather(-1, ids), of_rest], dim=-1) - logits.logsumexp(-1, keepdim=True)
        return torch.cat([self.log_probs.float(), self.log_rest.float().unsqueeze(-1)], dim=-1), log_q


def check_temperature(temperature: float, known: int) -> None:
    """Raises ValueError for distributions over part of the vocabulary that are to be softened."""
    if temperature != 1.0:
        raise ValueError(
            f"temperature is {temperature} and the teacher is known by its {known} likeliest tokens at temperature 1, "
            "which cannot be softened without the others. Set temperature to 1, or cache all tokens of the vocabulary."
        )
