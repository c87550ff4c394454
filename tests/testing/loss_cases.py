# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Heads, hidden states and targets of a distillation loss, and the textbook formula of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCABULARY, STUDENT_WIDTH, TEACHER_WIDTH = 97, 16, 24


def slow_objective(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    temperature: float,
    share: float,
    divergence: str = "forward_kl",
    beta: float = 0.5,
) -> Tensor:
    """Textbook formula in fp64 over all positions at once, labelled ones selected last."""
    p = torch.softmax(teacher_logits.double() / temperature, -1)
    q = torch.softmax(student_logits.double() / temperature, -1)
    distance = temperature**2 * slow_divergence(p, q, divergence, beta)
    nll = -torch.softmax(student_logits.double(), -1).log().gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return ((1 - share) * distance + share * nll)[targets != -100]


def slow_divergence(p: Tensor, q: Tensor, divergence: str, beta: float = 0.5) -> Tensor:
    """Of probabilities [..., V] of teacher and student."""
    m = beta * p + (1 - beta) * q
    of_kind = {
        "forward_kl": p * (p / q).log(),
        "reverse_kl": q * (q / p).log(),
        "jsd": beta * p * (p / m).log() + (1 - beta) * q * (q / m).log(),
    }
    return of_kind[divergence].sum(-1)


def case(length: int, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, Tensor, nn.Linear, Tensor, Tensor]:
    torch.manual_seed(length)
    student_head = nn.Linear(STUDENT_WIDTH, VOCABULARY, dtype=dtype)
    teacher_head = nn.Linear(TEACHER_WIDTH, VOCABULARY, bias=False, dtype=dtype)
    student_hidden = (3 * torch.randn(2, length, STUDENT_WIDTH)).to(dtype).requires_grad_()
    teacher_hidden = (3 * torch.randn(2, length, TEACHER_WIDTH)).to(dtype)
    targets = torch.randint(0, VOCABULARY, (2, length))
    targets[torch.rand(2, length) < 0.3] = -100
    targets[0, 0] = 5
    return student_head, student_hidden, teacher_head, teacher_hidden, targets
