# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the delta rule reads, by the family's own norms and rotation: the plain form, right for every family.

    q, k, v   = short convolution of the projections, the family's q/k norms and RoPE, K/V repeated; L2 norm on q and k
    log_decay = -exp(A_log) * softplus(a + dt_bias),   beta = sigmoid(b)       both 0 at padding

`fused_recurrence_inputs` is its fast twin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from .decay import log_decay
from .masks import RecurrentMask
from .recurrence_inputs import Projections, RecurrenceInputs, l2_normalise

if TYPE_CHECKING:
    from .gated_deltanet import GatedDeltaNet


def plain_inputs(
    mixer: GatedDeltaNet,
    projections: Projections,
    rotation: tuple[torch.Tensor, torch.Tensor] | None,
    mask: RecurrentMask,
    past: torch.Tensor | None,
) -> RecurrenceInputs:
    """What the delta rule of one layer reads."""
    qkv = convolve(mixer, without_padding(projections.qkv, mask), past, mask.document_position)
    q, k, v = heads(mixer, qkv, rotation)
    decay = log_decay(projections.a, mixer.A_log, mixer.dt_bias)
    beta = projections.b.float().sigmoid()
    decay, beta = (mixer.own_heads(x, q.shape[2]) for x in (decay, beta))
    if mask.padding is not None:  # nothing forgotten, nothing written: padding leaves the state as it was
        real = mask.padding[..., None]
        decay, beta = decay.masked_fill(~real, 0.0), beta.masked_fill(~real, 0.0)
    return RecurrenceInputs(l2_normalise(q), l2_normalise(k), v, decay, beta)


def without_padding(qkv: torch.Tensor, mask: RecurrentMask) -> torch.Tensor:
    """`[B, T, channels]` with zeros at padding."""
    return qkv if mask.padding is None else qkv * mask.padding[..., None].to(qkv.dtype)


def convolve(
    mixer: GatedDeltaNet,
    qkv: torch.Tensor,
    past: torch.Tensor | None = None,
    document_position: torch.Tensor | None = None,
) -> torch.Tensor:
    """The short convolution of `[B, T, channels]`, where the layer has one; arguments as in `ShortConvolution`."""
    if mixer.short_conv is None:
        return qkv
    shard = mixer.shard(_split(mixer, qkv)[0].shape[-1] // mixer.head_dim)
    own_channels = None
    if shard is not None:
        own_channels = lambda weight: torch.cat([shard.scatter(x, -1) for x in _split(mixer, weight)], dim=-1)  # noqa: E731
    return mixer.short_conv(qkv, past, document_position, own_channels)


def heads(
    mixer: GatedDeltaNet, qkv: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k `[B, T, H, K]`, v `[B, T, H, V]` as the teacher's attention has them: normed, rotated, K/V repeated."""
    q, k, v = _split(mixer, qkv)
    norms = (None, None) if mixer.norm_after_rotation else (mixer.q_norm, mixer.k_norm)
    q, k, v = (_normalised_heads(mixer, x, norm) for x, norm in zip((q, k, v), (*norms, None), strict=True))
    if mixer.clip_qkv is not None:
        q, k, v = (x.clamp(-mixer.clip_qkv, mixer.clip_qkv) for x in (q, k, v))
    if mixer.rotary is not None and position_embeddings is not None:
        q, k = _rotate(mixer, q, k, position_embeddings)
    if mixer.norm_after_rotation:
        assert mixer.q_norm is not None
        assert mixer.k_norm is not None
        q, k = mixer.q_norm(q), mixer.k_norm(k)
    groups = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(groups, dim=2) for x in (k, v))
    return q, k, v


def _split(mixer: GatedDeltaNet, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """q, k and v side by side in the last dimension, of all heads or of one rank's, to q, k and v."""
    head = qkv.shape[-1] // (mixer.num_heads + 2 * mixer.num_kv_heads)  # less than head_dim on one of several ranks
    return qkv.split([mixer.num_heads * head, mixer.num_kv_heads * head, mixer.num_kv_heads * head], dim=-1)


def _normalised_heads(mixer: GatedDeltaNet, x: torch.Tensor, norm: nn.Module | None) -> torch.Tensor:
    """`[B, T, H * K]` to `[B, T, H, K]`, with the family's q/k norm over all heads at once or over each."""
    weight = getattr(norm, "weight", None)
    if norm is not None and weight is not None and weight.shape == x.shape[-1:]:
        x, norm = norm(x), None
    x = x.unflatten(-1, (-1, mixer.head_dim))
    return x if norm is None else norm(x)


def _rotate(
    mixer: GatedDeltaNet, q: torch.Tensor, k: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    assert mixer.rotary is not None
    q, k = mixer.rotary(q.transpose(1, 2), k.transpose(1, 2), *position_embeddings)  # the library's [B, H, T, K]
    return q.transpose(1, 2), k.transpose(1, 2)
