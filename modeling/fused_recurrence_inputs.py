# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""When a layer's recurrence inputs come from the fused kernels, and how they are asked for.

For GPUs, and for families whose q/k norms are RMS norms (or none) and whose RoPE is Llama's (or none), which are most,
without an activation after the convolution.
An RMS norm that an L2 norm follows is its weight alone, and a weight per channel is part of the convolution's.
"""

import functools
from typing import TYPE_CHECKING, Any

import torch

from .decay import log_decay
from .fused_gates import fused_gates, triton
from .fused_heads import fused_heads
from .kernel_checks import kernel_is_right
from .masks import RecurrentMask
from .recurrence_inputs import L2_EPS, Projections, RecurrenceInputs, l2_normalise
from .short_convolution import short_convolution
from .teacher_attention import rms_norm_offset, rotates_halves

if TYPE_CHECKING:
    from .gated_deltanet import GatedDeltaNet

NORMED_EPS = 1e-12  # an RMS norm makes heads so long that L2_EPS would not be seen


def can_be_fused(
    mixer: "GatedDeltaNet",
    projections: Projections,
    rotation: tuple[torch.Tensor, torch.Tensor] | None,
    past: torch.Tensor | None,
) -> bool:
    """Whether the kernels do what this layer does, here and now."""
    qkv = projections.qkv
    if past is not None and torch.is_grad_enabled():
        return False
    whole = qkv.shape[-1] == (mixer.num_heads + 2 * mixer.num_kv_heads) * mixer.head_dim  # not one rank's heads
    return whole and has_kernels(mixer, qkv.device, qkv.dtype, rotation)


def has_kernels(
    mixer: "GatedDeltaNet",
    device: torch.device,
    dtype: torch.dtype,
    rotation: tuple[torch.Tensor, torch.Tensor] | None,
) -> bool:
    """Whether this layer's norms and rotation are those of the kernels, and these are right on a device."""
    if device.type != "cuda" or triton is None or torch.compiler.is_compiling() or dtype == torch.float64:
        return False
    head_dim = mixer.head_dim
    if mixer.short_conv is None or mixer.short_conv.activated or mixer.clip_qkv is not None or head_dim % 2:
        return False
    if mixer.short_conv.weight.is_meta:  # offloaded: accelerate brings the weights of a module while that is called
        return False
    if mixer.q_norm is not None and (mixer.norm_after_rotation or rms_norm_offset(mixer.q_norm) is None):
        return False
    if rotation is not None:
        assert mixer.rotary is not None
        if rotation[0].shape[-1] != head_dim or not rotates_halves(mixer.rotary):
            return False
    return kernels_are_right(device, dtype, mixer.short_conv.weight.dtype, head_dim, torch.is_grad_enabled())


def fused_recurrence_inputs(
    mixer: "GatedDeltaNet",
    projections: Projections,
    rotation: tuple[torch.Tensor, torch.Tensor] | None,
    mask: RecurrentMask,
    past: torch.Tensor | None,
) -> RecurrenceInputs:
    """As `plain_inputs`, of a layer that `can_be_fused`."""
    kernel, eps = convolution_of(mixer)
    heads = (mixer.num_heads, mixer.num_kv_heads, mixer.head_dim)
    q, k, v = fused_heads(projections.qkv, kernel, rotation, mask, heads, eps, past)
    gates = fused_gates(projections.a, projections.b, mixer.A_log, mixer.dt_bias, mask.padding)
    return RecurrenceInputs(q, k, v, *gates)


def convolution_of(mixer: "GatedDeltaNet") -> tuple[torch.Tensor, float]:
    """`[kernel_size, channels]`, the q/k norms' weights included, and the eps of the L2 norm that follows."""
    assert mixer.short_conv is not None
    weight: torch.Tensor = mixer.short_conv.weight
    return (weight, L2_EPS) if mixer.q_norm is None else (weight * _channel_scale(mixer), NORMED_EPS)


def _channel_scale(mixer: "GatedDeltaNet") -> torch.Tensor:
    """By what the q/k norms multiply each channel of q, k, v after dividing: their weight, or 1 + it (Gemma)."""
    assert mixer.q_norm is not None
    offset, scales = rms_norm_offset(mixer.q_norm), []
    for norm, heads in ((mixer.q_norm, mixer.num_heads), (mixer.k_norm, mixer.num_kv_heads)):
        assert norm is not None
        weight = norm.weight
        assert isinstance(weight, torch.Tensor)
        scales.append(weight.repeat(heads * mixer.head_dim // weight.numel()))  # of each head, or of all at once
    scale = torch.cat(scales)
    scale = scale + offset if offset else scale
    return torch.cat([scale, scale.new_ones(mixer.num_kv_heads * mixer.head_dim)])


@functools.cache
def kernels_are_right(
    device: torch.device, dtype: torch.dtype, weight_dtype: torch.dtype, head_dim: int, training: bool
) -> bool:
    """Whether the kernels give the plain form's numbers here, see `kernel_checks`."""
    generator = torch.Generator(device).manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator, device=device)
    angles = draw(1, 70, head_dim // 2)
    rotation = (torch.cat([angles.cos()] * 2, dim=-1).to(dtype), torch.cat([angles.sin()] * 2, dim=-1).to(dtype))
    problem = dict(
        qkv=draw(2, 70, 4 * head_dim).to(dtype),
        kernel=draw(4, 4 * head_dim).to(weight_dtype),
        a=draw(2, 70, 2).to(dtype),
        b=draw(2, 70, 2).to(dtype),
        A_log=draw(2).to(weight_dtype),
        dt_bias=draw(2).to(weight_dtype),
    )

    def kernel(qkv: Any, kernel: Any, a: Any, b: Any, A_log: Any, dt_bias: Any) -> tuple[torch.Tensor, ...]:
        heads = fused_heads(qkv, kernel, rotation, RecurrentMask(), (2, 1, head_dim))
        return *heads, *fused_gates(a, b, A_log, dt_bias, None)

    def plain(qkv: Any, kernel: Any, a: Any, b: Any, A_log: Any, dt_bias: Any) -> tuple[torch.Tensor, ...]:
        return *plain_heads(qkv, kernel, rotation, (2, 1, head_dim)), log_decay(a, A_log, dt_bias), b.float().sigmoid()

    return kernel_is_right("hf_tc's fused projections", kernel, plain, problem, training)


def plain_heads(
    qkv: torch.Tensor,
    kernel: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor] | None,
    heads: tuple[int, int, int],
    past: torch.Tensor | None = None,
    document_position: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `fused_heads` computes, without padding, as the equations read."""
    query_heads, kv_heads, head_dim = heads
    y = short_convolution(qkv.float(), kernel.float(), past, document_position)
    q, k, v = y.unflatten(-1, (-1, head_dim)).split([query_heads, kv_heads, kv_heads], dim=2)
    if rotation is not None:
        cos, sin = (x.float()[:, :, None] for x in rotation)
        q, k = (x * cos + torch.cat([-x[..., head_dim // 2 :], x[..., : head_dim // 2]], dim=-1) * sin for x in (q, k))
    k, v = (x.repeat_interleave(query_heads // kv_heads, dim=2) for x in (l2_normalise(k), v))
    return l2_normalise(q).to(qkv.dtype), k.to(qkv.dtype), v.to(qkv.dtype)
