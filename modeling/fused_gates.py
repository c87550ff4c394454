# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The gates of a recurrent layer in one Triton kernel, and their gradients in another.

    log_decay = -exp(A_log) * softplus(a + dt_bias),   beta = sigmoid(b),   both 0 at padding: the state stays as it was

The plain form is `plain_recurrence_inputs`. All arithmetic is in float32; a kernel works on BLOCK tokens and all heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

try:
    import triton
    import triton.language as tl
except ImportError:  # machines without a GPU: the plain form is used
    triton = tl = None

BLOCK = 64  # tokens


def jit(kernel: Any) -> Any:
    """`triton.jit` where there is Triton."""
    return kernel if triton is None else triton.jit(kernel)


def fused_gates(a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """log_decay and beta, `[B, T, H]` in float32.

    Args:
        a, b: `[B, T, H]`, the last dimension dense.
        A_log, dt_bias: `[H]`.
        padding: `[B, T]` bool, True at real tokens; None where all are.
    """
    return _FusedGates.apply(a, b, A_log, dt_bias, padding)


class _FusedGates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        log_decay, beta = (torch.empty(a.shape, device=a.device) for _ in range(2))
        with torch.cuda.device_of(a):
            _gates_forward[_gate_grid(a)](log_decay, beta, **_gate_arguments(a, b, A_log, dt_bias, padding))
        ctx.save_for_backward(a, b, A_log, dt_bias, padding)
        return log_decay, beta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_log_decay: Tensor, d_beta: Tensor) -> tuple[Tensor | None, ...]:
        a, b, A_log, dt_bias, padding = ctx.saved_tensors
        da, db = a.new_empty(a.shape), b.new_empty(b.shape)
        by_block = torch.empty(*_gate_grid(a), 2, a.shape[-1], device=a.device)  # of A_log, then of dt_bias
        with torch.cuda.device_of(a):
            _gates_backward[_gate_grid(a)](
                d_log_decay.contiguous(), d_beta.contiguous(), da, db, by_block,
                **_gate_arguments(a, b, A_log, dt_bias, padding),
            )  # fmt: skip
        d_A_log, d_dt_bias = by_block.sum(0)
        return da, db, d_A_log.to(A_log.dtype), d_dt_bias.to(dt_bias.dtype), None


def _gate_grid(a: Tensor) -> tuple[int]:
    return (triton.cdiv(a.shape[0] * a.shape[1], BLOCK),)


def _gate_arguments(a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, padding: Tensor | None) -> dict[str, Any]:
    heads = a.shape[-1]
    return dict(
        a=a, b=b, a_row=a.stride(0), a_token=a.stride(1), b_row=b.stride(0), b_token=b.stride(1), A_log=A_log,
        dt_bias=dt_bias, padding=padding, tokens=a.shape[0] * a.shape[1], length=a.shape[1], heads=heads,
        HEADS=triton.next_power_of_2(heads), BLOCK=BLOCK, PADDED=padding is not None,
    )  # fmt: skip


@jit
def _read_gates(
    a, b, a_row, a_token, b_row, b_token, A_log, dt_bias, padding, tokens, length, heads, HEADS: tl.constexpr,
    BLOCK: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    head = tl.arange(0, HEADS)
    inside = (token < tokens)[:, None] & (head < heads)[None, :]
    row, column = token // length, token % length
    a_value = tl.load(a + (row * a_row + column * a_token)[:, None] + head[None, :], mask=inside, other=0.0)
    b_value = tl.load(b + (row * b_row + column * b_token)[:, None] + head[None, :], mask=inside, other=0.0)
    rate = tl.exp(tl.load(A_log + head, mask=head < heads, other=0.0).to(tl.float32))[None, :]
    shifted = a_value.to(tl.float32) + tl.load(dt_bias + head, mask=head < heads, other=0.0).to(tl.float32)[None, :]
    # softplus as log1p would have it: the logarithm of 1 + small alone loses the digits of a long half-life.
    small = tl.exp(tl.minimum(shifted, 20.0))
    one_more = 1.0 + small
    log1p = tl.where(one_more == 1.0, small, tl.log(one_more) * small / tl.where(one_more == 1.0, 1.0, one_more - 1.0))
    softplus = tl.where(shifted > 20.0, shifted, log1p)
    log_decay, beta = -rate * softplus, tl.sigmoid(b_value.to(tl.float32))
    counted = inside
    if PADDED:
        counted = inside & (tl.load(padding + token, mask=token < tokens, other=0) != 0)[:, None]
    return log_decay, beta, rate, shifted, counted, inside, token[:, None] * heads + head[None, :]


@jit
def _gates_forward(
    log_decay, beta, a, b, a_row, a_token, b_row, b_token, A_log, dt_bias, padding, tokens, length, heads,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    decay, write, _, _, counted, inside, at = _read_gates(
        a, b, a_row, a_token, b_row, b_token, A_log, dt_bias, padding, tokens, length, heads, HEADS, BLOCK, PADDED
    )
    tl.store(log_decay + at, tl.where(counted, decay, 0.0), mask=inside)
    tl.store(beta + at, tl.where(counted, write, 0.0), mask=inside)


@jit
def _gates_backward(
    d_log_decay, d_beta, da, db, by_block, a, b, a_row, a_token, b_row, b_token, A_log, dt_bias, padding, tokens,
    length, heads, HEADS: tl.constexpr, BLOCK: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    decay, write, rate, shifted, counted, inside, at = _read_gates(
        a, b, a_row, a_token, b_row, b_token, A_log, dt_bias, padding, tokens, length, heads, HEADS, BLOCK, PADDED
    )
    from_decay = tl.load(d_log_decay + at, mask=counted, other=0.0)
    from_write = tl.load(d_beta + at, mask=counted, other=0.0)
    of_a = -from_decay * rate * tl.sigmoid(shifted)
    tl.store(da + at, of_a.to(da.dtype.element_ty), mask=inside)
    tl.store(db + at, (from_write * write * (1.0 - write)).to(db.dtype.element_ty), mask=inside)
    head = tl.arange(0, HEADS)
    part = by_block + tl.program_id(0) * 2 * heads + head
    tl.store(part, tl.sum(from_decay * decay, 0), mask=head < heads)
    tl.store(part + heads, tl.sum(of_a, 0), mask=head < heads)
