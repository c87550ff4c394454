# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The short convolution inside Triton kernels: what it reads, what it gives, and the gradient of its input.

    y_t = sum_j kernel_j x_{t-j},    within the document; padding is read as zeros
    dx_t = sum_j kernel_j dy_{t+j},  within the document; 0 at padding

Source: Gated Delta Networks (arXiv 2412.06464), section 3.4. The plain form is `short_convolution`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .fused_gates import BLOCK, jit

try:
    import triton
    import triton.language as tl
except ImportError:  # machines without a GPU: the plain form is used
    triton = tl = None


def convolution_backward(
    dy: Tensor, kernel: Tensor, padding: Tensor | None, document_position: Tensor | None
) -> Tensor:
    """Gradient of the convolution's input from that of its output, both `[B, T, channels]`."""
    (batch, length, channels), dx = dy.shape, torch.empty_like(dy)
    _convolution_backward[triton.cdiv(length, BLOCK), triton.cdiv(channels, BLOCK), batch](
        dy, dx, kernel, padding, document_position, length, channels, SIZE=kernel.shape[0], BLOCK=BLOCK, CHANNELS=BLOCK,
        PADDED=padding is not None, PACKED=document_position is not None,
    )  # fmt: skip
    return dx


@jit
def tap(
    x, x_row, x_token, padding, position, past, length, row, token, channel, is_channel, all_channels,
    back: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr,
):  # fmt: skip
    """What entered the convolution `back` tokens before each token `[BLOCK, HALF]`; 0 before the document."""
    source = token - back
    inside = token < length
    if PACKED:
        inside = inside & (tl.load(position + row * length + token, mask=inside, other=0) >= back)
    here = inside & (source >= 0)
    at = row * x_row + source[:, None] * x_token + channel[None, :]
    value = tl.load(x + at, mask=here[:, None] & is_channel[None, :], other=0.0).to(tl.float32)
    if PADDED:
        real = tl.load(padding + row * length + source, mask=here, other=0)
        value = tl.where(real[:, None] != 0, value, 0.0)
    if CONTINUED:
        before = inside & (source < 0)
        at = (row * (SIZE - 1) + source + SIZE - 1)[:, None] * all_channels + channel[None, :]
        value += tl.load(past + at, mask=before[:, None] & is_channel[None, :], other=0.0).to(tl.float32)
    return value


@jit
def convolved(
    x, x_row, x_token, kernel, padding, position, past, length, row, token, channel, is_channel, all_channels,
    SIZE: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr,
):  # fmt: skip
    weight = tl.load(kernel + channel, mask=is_channel, other=0.0).to(tl.float32)
    y = weight[None, :] * tap(
        x, x_row, x_token, padding, position, past, length, row, token, channel, is_channel, all_channels, 0,
        SIZE, PADDED, PACKED, CONTINUED,
    )  # fmt: skip
    for back in tl.static_range(1, SIZE):
        weight = tl.load(kernel + back * all_channels + channel, mask=is_channel, other=0.0).to(tl.float32)
        y += weight[None, :] * tap(
            x, x_row, x_token, padding, position, past, length, row, token, channel, is_channel, all_channels, back,
            SIZE, PADDED, PACKED, CONTINUED,
        )  # fmt: skip
    return y


@jit
def _convolution_backward(
    dy, dx, kernel, padding, position, length, all_channels, SIZE: tl.constexpr, BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(2).to(tl.int64)
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = channel < all_channels
    total = tl.zeros((BLOCK, CHANNELS), dtype=tl.float32)
    for ahead in tl.static_range(SIZE):
        reader = token + ahead
        reads = reader < length
        if PACKED:
            reads = reads & (tl.load(position + row * length + reader, mask=reads, other=0) >= ahead)
        weight = tl.load(kernel + ahead * all_channels + channel, mask=is_channel, other=0.0).to(tl.float32)
        at = (row * length + reader[:, None]) * all_channels + channel[None, :]
        total += weight[None, :] * tl.load(dy + at, mask=reads[:, None] & is_channel[None, :], other=0.0).to(tl.float32)
    inside = token < length
    if PADDED:
        real = tl.load(padding + row * length + token, mask=inside, other=0)
        total = tl.where(real[:, None] != 0, total, 0.0)
    at = (row * length + token[:, None]) * all_channels + channel[None, :]
    tl.store(dx + at, total.to(dx.dtype.element_ty), mask=inside[:, None] & is_channel[None, :])
