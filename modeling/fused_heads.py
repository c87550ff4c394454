# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""q, k and v of the delta rule in one Triton kernel, and their gradients in two.

    y    = short convolution of the projections (padding read as zeros), per channel
    q, k = L2 norm of RoPE(y),   v = y;   k and v repeated for the query heads that share them

The plain form is `plain_recurrence_inputs`, which also serves families whose norms or rotation are of another kind. All
arithmetic is in float32. A kernel works on BLOCK tokens and one head; a head is two halves of HALF channels (a power of
2), since RoPE turns channel c together with channel c + D / 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fused_convolution import convolution_backward, convolved, tap
from .fused_gates import BLOCK, jit
from .masks import RecurrentMask
from .recurrence_inputs import L2_EPS

try:
    import triton
    import triton.language as tl
except ImportError:  # machines without a GPU: the plain form is used
    triton = tl = None


def fused_heads(
    qkv: Tensor,
    kernel: Tensor,
    rotation: tuple[Tensor, Tensor] | None,
    mask: RecurrentMask,
    heads: tuple[int, int, int],
    eps: float = L2_EPS,
    past: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, each `[B, T, H, D]`.

    Args:
        qkv: the projections side by side, `[B, T, (H + 2 KV) D]`, the last dimension dense.
        kernel: of the convolution, `[kernel_size, (H + 2 KV) D]`; row 0 weighs the token itself.
        rotation: cos and sin `[B or 1, T, D]`; None for no rotation.
        mask: padding and packed documents.
        heads: query heads H, key/value heads KV, head dimension D.
        eps: of the L2 norm, added to the squared length.
        past: `[B, kernel_size - 1, channels]`, what entered the convolution before; there is no gradient with it.
    """
    cos, sin = rotation or (None, None)
    return _FusedHeads.apply(qkv, kernel, cos, sin, mask, heads, eps, past)


class _FusedHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        kernel: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        mask: RecurrentMask,
        heads: tuple[int, int, int],
        eps: float,
        past: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length = qkv.shape[:2]
        q, k, v = (qkv.new_empty(batch, length, heads[0], heads[2]) for _ in range(3))
        if cos is not None:
            assert sin is not None
            cos, sin = cos.contiguous(), sin.contiguous()
        past = None if past is None else past.contiguous()
        arguments = _arguments(qkv, kernel, cos, sin, mask, heads, eps, past)
        grid = (triton.cdiv(length, BLOCK), heads[0] + 2 * heads[1], batch)
        with torch.cuda.device_of(qkv):
            _heads_forward[grid](q, k, v, **arguments)
        ctx.save_for_backward(qkv, kernel, cos, sin, mask.padding, mask.document_position)
        ctx.heads, ctx.eps = heads, eps
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        qkv, kernel, cos, sin, padding, document_position = ctx.saved_tensors
        mask, heads = RecurrentMask(padding, document_position), ctx.heads
        (batch, length, channels), size = qkv.shape, kernel.shape[0]
        blocks = triton.cdiv(length, BLOCK)
        dy = qkv.new_empty(batch, length, channels)
        by_block = torch.empty(batch * blocks, size, channels, device=qkv.device)  # of the kernel's gradient
        arguments = _arguments(qkv, kernel, cos, sin, mask, heads, ctx.eps, None)
        gradients = (x.contiguous() for x in (dq, dk, dv))
        with torch.cuda.device_of(qkv):
            _heads_backward[blocks, heads[0] + 2 * heads[1], batch](*gradients, dy, by_block, **arguments)
            dx = convolution_backward(dy, kernel, padding, document_position)
        return dx, by_block.sum(0).to(kernel.dtype), *(None,) * 6


def _arguments(
    qkv: Tensor,
    kernel: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    mask: RecurrentMask,
    heads: tuple[int, int, int],
    eps: float,
    past: Tensor | None,
) -> dict[str, Any]:
    """What both kernels over heads take; a tensor that is not there is never read."""
    query_heads, kv_heads, head_dim = heads
    return dict(
        x=qkv, x_row=qkv.stride(0), x_token=qkv.stride(1), kernel=kernel, cos=cos, sin=sin,
        rotation_row=0 if cos is None or cos.shape[0] == 1 else cos.stride(0), padding=mask.padding,
        position=mask.document_position, past=past, length=qkv.shape[1], query_heads=query_heads,
        kv_heads=kv_heads, D=head_dim, HALF=triton.next_power_of_2(head_dim // 2), SIZE=kernel.shape[0], BLOCK=BLOCK,
        ROTATED=cos is not None, PADDED=mask.padding is not None, PACKED=mask.document_position is not None,
        CONTINUED=past is not None, eps=eps,
    )  # fmt: skip


@jit
def _query_heads_of(head, q, k, v, query_heads, kv_heads):
    """Where a head of the projections goes: to q, k or v, from which query head on, and to how many: those that share
    a key/value head follow one another."""
    group = query_heads // kv_heads
    tensor, of, copies = q, head, 1
    if head >= query_heads:
        tensor, of, copies = k, (head - query_heads) * group, group
    if head >= query_heads + kv_heads:
        tensor, of = v, (head - query_heads - kv_heads) * group
    return tensor, of, copies


@jit
def _rotation(cos, sin, row, token, half, inside, D: tl.constexpr):
    """cos and sin of both halves of a head's channels, each `[BLOCK, HALF]`."""
    at = row + token[:, None] * D + half[None, :]
    cos1 = tl.load(cos + at, mask=inside, other=0.0).to(tl.float32)
    cos2 = tl.load(cos + at + D // 2, mask=inside, other=0.0).to(tl.float32)
    sin1 = tl.load(sin + at, mask=inside, other=0.0).to(tl.float32)
    sin2 = tl.load(sin + at + D // 2, mask=inside, other=0.0).to(tl.float32)
    return cos1, cos2, sin1, sin2


@jit
def _heads_forward(
    q, k, v, x, x_row, x_token, kernel, cos, sin, rotation_row, padding, position, past, length, query_heads, kv_heads,
    eps, D: tl.constexpr, HALF: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, ROTATED: tl.constexpr,
    PADDED: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(1), tl.program_id(2).to(tl.int64)
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    half = tl.arange(0, HALF)
    is_channel = half < D // 2
    inside = (token < length)[:, None] & is_channel[None, :]
    all_channels = (query_heads + 2 * kv_heads) * D
    first = head * D + half
    y1 = convolved(x, x_row, x_token, kernel, padding, position, past, length, row, token, first, is_channel,
                    all_channels, SIZE, PADDED, PACKED, CONTINUED)  # fmt: skip
    y2 = convolved(x, x_row, x_token, kernel, padding, position, past, length, row, token, first + D // 2, is_channel,
                    all_channels, SIZE, PADDED, PACKED, CONTINUED)  # fmt: skip
    if head < query_heads + kv_heads:
        if ROTATED:
            cos1, cos2, sin1, sin2 = _rotation(cos, sin, row * rotation_row, token, half, inside, D)
            y1, y2 = y1 * cos1 - y2 * sin1, y2 * cos2 + y1 * sin2
        factor = tl.rsqrt(tl.sum(y1 * y1, 1) + tl.sum(y2 * y2, 1) + eps)[:, None]
        y1 *= factor
        y2 *= factor
    output, of, copies = _query_heads_of(head, q, k, v, query_heads, kv_heads)
    for copy in range(copies):
        at = ((row * length + token[:, None]) * query_heads + of + copy) * D + half[None, :]
        tl.store(output + at, y1.to(output.dtype.element_ty), mask=inside)
        tl.store(output + at + D // 2, y2.to(output.dtype.element_ty), mask=inside)


@jit
def _heads_backward(
    dq, dk, dv, dy, by_block, x, x_row, x_token, kernel, cos, sin, rotation_row, padding, position, past, length,
    query_heads, kv_heads, eps, D: tl.constexpr, HALF: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
    ROTATED: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr,
):  # fmt: skip
    """Gradient of what left the convolution, `[B, T, channels]`, and this block's part of the kernel's."""
    head, row = tl.program_id(1), tl.program_id(2).to(tl.int64)
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    half = tl.arange(0, HALF)
    is_channel = half < D // 2
    inside, first = (token < length)[:, None] & is_channel[None, :], head * D + half
    all_channels = (query_heads + 2 * kv_heads) * D
    block = row * tl.num_programs(0) + tl.program_id(0)
    part = by_block + block * SIZE * all_channels + first

    gradient, of, copies = _query_heads_of(head, dq, dk, dv, query_heads, kv_heads)
    d1 = tl.zeros((BLOCK, HALF), dtype=tl.float32)
    d2 = tl.zeros((BLOCK, HALF), dtype=tl.float32)
    for copy in range(copies):
        at = ((row * length + token[:, None]) * query_heads + of + copy) * D + half[None, :]
        d1 += tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        d2 += tl.load(gradient + at + D // 2, mask=inside, other=0.0).to(tl.float32)

    if head < query_heads + kv_heads:
        r1 = convolved(x, x_row, x_token, kernel, padding, position, past, length, row, token, first, is_channel,
                        all_channels, SIZE, PADDED, PACKED, CONTINUED)  # fmt: skip
        r2 = convolved(x, x_row, x_token, kernel, padding, position, past, length, row, token, first + D // 2,
                        is_channel, all_channels, SIZE, PADDED, PACKED, CONTINUED)  # fmt: skip
        cos1 = tl.full((BLOCK, HALF), 1.0, dtype=tl.float32)
        cos2 = cos1
        sin1 = tl.zeros((BLOCK, HALF), dtype=tl.float32)
        sin2 = sin1
        if ROTATED:
            cos1, cos2, sin1, sin2 = _rotation(cos, sin, row * rotation_row, token, half, inside, D)
            r1, r2 = r1 * cos1 - r2 * sin1, r2 * cos2 + r1 * sin2
        factor = tl.rsqrt(tl.sum(r1 * r1, 1) + tl.sum(r2 * r2, 1) + eps)[:, None]
        along = (tl.sum(r1 * d1, 1) + tl.sum(r2 * d2, 1))[:, None] * factor * factor
        d1, d2 = factor * (d1 - r1 * along), factor * (d2 - r2 * along)
        d1, d2 = d1 * cos1 + d2 * sin2, d2 * cos2 - d1 * sin1
    at = (row * length + token[:, None]) * all_channels + first[None, :]
    tl.store(dy + at, d1.to(dy.dtype.element_ty), mask=inside)
    tl.store(dy + at + D // 2, d2.to(dy.dtype.element_ty), mask=inside)
    for back in tl.static_range(SIZE):
        value = tap(x, x_row, x_token, padding, position, past, length, row, token, first, is_channel, all_channels,
                     back, SIZE, PADDED, PACKED, CONTINUED)  # fmt: skip
        tl.store(part + back * all_channels, tl.sum(d1 * value, 0), mask=is_channel)
        value = tap(x, x_row, x_token, padding, position, past, length, row, token, first + D // 2, is_channel,
                     all_channels, back, SIZE, PADDED, PACKED, CONTINUED)  # fmt: skip
        tl.store(part + back * all_channels + D // 2, tl.sum(d2 * value, 0), mask=is_channel)
