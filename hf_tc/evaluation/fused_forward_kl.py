# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Forward KL of whole rows of logits by Triton kernels, which read them twice and keep nothing of their size.

With z and y the logits of student and teacher over temperature T, and p = softmax(y):

    T^2 KL = T^2 (sum_v p_v (y_v - z_v) - log sum_v exp(y_v) + log sum_v exp(z_v)),     y and z less their largest
    its gradient by the student's logits = T (softmax(z) - softmax(y))

In PyTorch each of the softmaxes, their difference and its gradient is a pass over memory of its own, about 24 in all.
The plain form is `kd_loss.plain_forward_kl`. All arithmetic is in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_tc.modeling.fused_gates import jit, tl, triton

BLOCK = 4096  # logits
LEAST = -3e38  # what the largest logit begins at: of a masked block, -inf, no difference could be taken


def can_be_fused(student_logits: Tensor, teacher_logits: Tensor) -> bool:
    """Whether the kernels take these tensors: `[N, V]` on one GPU, rows dense, no gradient wanted of the teacher's."""
    pair = (student_logits, teacher_logits)
    return (
        triton is not None
        and all(type(x) is Tensor and x.is_cuda and x.dtype != torch.float64 for x in pair)
        and all(x.dim() == 2 and x.stride(1) == 1 for x in pair)
        and student_logits.shape == teacher_logits.shape
        and student_logits.device == teacher_logits.device
        and not (torch.is_grad_enabled() and teacher_logits.requires_grad)
        and not torch.compiler.is_compiling()
    )


def fused_forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of each row of `[N, V]`, `[N]` in float32 and nats."""
    return _FusedForwardKL.apply(student_logits, teacher_logits, temperature)


class _FusedForwardKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        rows, vocabulary = student_logits.shape
        kl, student_total, teacher_total = (torch.empty(rows, device=student_logits.device) for _ in range(3))
        ctx.arguments = dict(
            student_row=student_logits.stride(0), teacher_row=teacher_logits.stride(0), vocabulary=vocabulary,
            temperature=temperature, BLOCK=BLOCK,
        )  # fmt: skip
        ctx.save_for_backward(student_logits, teacher_logits, student_total, teacher_total)
        if rows:
            with torch.cuda.device_of(student_logits):
                _divergence[(rows,)](
                    kl, student_total, teacher_total, student_logits, teacher_logits, **ctx.arguments, LEAST=LEAST,
                    num_warps=8,
                )  # fmt: skip
        return kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_kl: Tensor) -> tuple[Tensor | None, ...]:
        student_logits, teacher_logits, student_total, teacher_total = ctx.saved_tensors
        rows, vocabulary = student_logits.shape
        gradient = torch.empty_like(student_logits, memory_format=torch.contiguous_format)
        if rows:
            with torch.cuda.device_of(student_logits):
                _gradient[(rows, triton.cdiv(vocabulary, BLOCK))](
                    gradient, d_kl.contiguous(), student_total, teacher_total, student_logits, teacher_logits,
                    **ctx.arguments, num_warps=8,
                )  # fmt: skip
        return gradient, None, None


@jit
def _divergence(
    kl, student_total, teacher_total, student, teacher, student_row, teacher_row, vocabulary, temperature,
    BLOCK: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    """One row a program: largest logits, sums of exponentials and of p (y - z), rescaled as a larger logit comes."""
    row = tl.program_id(0).to(tl.int64)
    z_most, y_most, z_sum, y_sum, apart = LEAST, LEAST, 0.0, 0.0, 0.0
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        inside = token < vocabulary
        z = tl.load(student + row * student_row + token, mask=inside, other=-float("inf")).to(tl.float32) / temperature
        y = tl.load(teacher + row * teacher_row + token, mask=inside, other=-float("inf")).to(tl.float32) / temperature
        z_new, y_new = tl.maximum(z_most, tl.max(z, 0)), tl.maximum(y_most, tl.max(y, 0))
        # Logits by their distance from the largest, which a shift of all of them leaves alone.
        weight, y_kept = tl.exp(y - y_new), tl.exp(y_most - y_new)
        moved = (y_most - y_new) - (z_most - z_new)
        apart = tl.where(y_sum > 0.0, (apart + y_sum * moved) * y_kept, 0.0)
        apart += tl.sum(tl.where(weight > 0.0, weight * ((y - y_new) - (z - z_new)), 0.0), 0)
        y_sum = y_sum * y_kept + tl.sum(weight, 0)
        z_sum = z_sum * tl.exp(z_most - z_new) + tl.sum(tl.exp(z - z_new), 0)
        z_most, y_most = z_new, y_new
    tl.store(student_total + row, z_most + tl.log(z_sum))
    tl.store(teacher_total + row, y_most + tl.log(y_sum))
    tl.store(kl + row, temperature * temperature * (apart / y_sum - (tl.log(y_sum) - tl.log(z_sum))))


@jit
def _gradient(
    gradient, d_kl, student_total, teacher_total, student, teacher, student_row, teacher_row, vocabulary, temperature,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row, token = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocabulary
    z = tl.load(student + row * student_row + token, mask=inside, other=0.0).to(tl.float32) / temperature
    y = tl.load(teacher + row * teacher_row + token, mask=inside, other=0.0).to(tl.float32) / temperature
    q, p = tl.exp(z - tl.load(student_total + row)), tl.exp(y - tl.load(teacher_total + row))
    value = tl.load(d_kl + row) * temperature * (q - p)
    tl.store(gradient + row * vocabulary + token, value.to(gradient.dtype.element_ty), mask=inside)
