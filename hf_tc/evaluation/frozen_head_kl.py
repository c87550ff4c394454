# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Mean forward KL of two models on every token, where the student's head is not trained.

The gradient with regard to the hidden states below a frozen head can be had while its logits are there, so no logits
are kept or computed twice, and nothing waits for the GPU.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_tc.evaluation.kd_loss import LazyLogits, forward_kl


def frozen_head_kl(student: LazyLogits, teacher: LazyLogits, chunk_tokens: int) -> Tensor:
    """KL(teacher || student), nats a token, mean over all positions; gradients reach the student's hidden states alone.

    Logits exist for `chunk_tokens` positions at a time.
    """
    hidden, taught = student.hidden_states.flatten(0, 1), teacher.hidden_states.detach().flatten(0, 1)
    return _FrozenHeadKL.apply(hidden, student.head, taught, teacher.head, chunk_tokens)


class _FrozenHeadKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Any, taught: Tensor, teacher_head: Any, chunk_tokens: int) -> Tensor:
        total, gradients = torch.zeros((), device=hidden.device), []
        for ours, theirs in zip(hidden.split(chunk_tokens), taught.split(chunk_tokens), strict=True):
            teacher_logits = teacher_head(theirs)
            with torch.enable_grad():
                ours = ours.detach().requires_grad_()
                kl = forward_kl(head(ours), teacher_logits).sum()
                gradients += torch.autograd.grad(kl, ours)
            total += kl.detach()
        ctx.gradient = torch.cat(gradients) / len(hidden)
        return total / len(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Any, ...]:
        return ctx.gradient * output_gradient, None, None, None, None
