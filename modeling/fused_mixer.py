# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A whole recurrent layer as one function of tensors, which `cuda_graphs` launches at once: how small models train."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .cuda_graphs import call_graphed
from .first_token import add_first_values, first_tokens
from .fused_gates import fused_gates
from .fused_heads import fused_heads
from .fused_recurrence_inputs import convolution_of, has_kernels
from .gated_delta_rule import gated_delta_rule
from .joint_projection import can_be_joined, joined
from .kernel_checks import compute_dtype
from .masks import RecurrentMask

if TYPE_CHECKING:
    from .gated_deltanet import GatedDeltaNet


def can_be_one_call(
    mixer: "GatedDeltaNet", hidden_states: Tensor, rotation: tuple[Tensor, Tensor] | None, mask: RecurrentMask
) -> bool:
    """Whether `in_one_call` is this layer; packed documents differ in number from batch to batch, and are not."""
    if mixer.o_norm is not None or mask.document_position is not None:
        return False
    if not can_be_joined((*mixer.input_projections, mixer.o_proj), hidden_states):
        return False
    return has_kernels(mixer, hidden_states.device, compute_dtype(hidden_states), rotation)


def in_one_call(
    mixer: "GatedDeltaNet", hidden_states: Tensor, rotation: tuple[Tensor, Tensor] | None, mask: RecurrentMask
) -> Tensor:
    """The layer's output, `[B, T, C]`."""
    weight, bias = joined(mixer.input_projections)
    kernel, eps = convolution_of(mixer)
    cos, sin = rotation or (None, None)
    tensors = dict(
        hidden_states=hidden_states,
        weight=weight,
        bias=bias,
        kernel=kernel,
        A_log=mixer.A_log,
        dt_bias=mixer.dt_bias,
        cos=cos,
        sin=sin,
        padding=mask.padding,
        first_token_weight=mixer.first_token_weight,
        output_weight=mixer.o_proj.weight,
        output_bias=mixer.o_proj.bias,
    )
    heads = (mixer.num_heads, mixer.num_kv_heads, mixer.head_dim)
    return call_graphed(mixed, tensors, heads=heads, eps=eps, dtype=compute_dtype(hidden_states))


def mixed(
    *,
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    padding: Tensor | None,
    first_token_weight: Tensor | None,
    output_weight: Tensor,
    output_bias: Tensor | None,
    heads: tuple[int, int, int],
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """`GatedDeltaNet.forward` without a cache, `[B, T, C]` to `[B, T, C]`.

    Args:
        weight, bias: of q, k, v, a, b and gate, see `joint_projection.joined`.
        kernel, cos, sin, heads, eps: as in `fused_heads`.
        A_log, dt_bias, padding: as in `fused_gates`.
        first_token_weight: as in `add_first_values`.
        dtype: of the products; under autocast not that of the weights.
    """
    query_heads, kv_heads, head_dim = heads
    rows = [(query_heads + 2 * kv_heads) * head_dim, query_heads, query_heads, query_heads * head_dim]
    with torch.autocast(hidden_states.device.type, enabled=False):
        x, weight, output_weight = (tensor.to(dtype) for tensor in (hidden_states, weight, output_weight))
        bias, output_bias = (None if b is None else b.to(dtype) for b in (bias, output_bias))
        qkv, a, b, gate, _ = F.linear(x, weight, bias).split([*rows, weight.shape[0] - sum(rows)], dim=-1)
        rotation = None if cos is None or sin is None else (cos, sin)
        mask = RecurrentMask(padding)
        q, k, v = fused_heads(qkv, kernel, rotation, mask, heads, eps)
        log_decay, beta = fused_gates(a, b, A_log, dt_bias, padding)
        recurrence_output, _ = gated_delta_rule(q=q, k=k, v=v, log_decay=log_decay, beta=beta)
        if first_token_weight is not None:
            first = first_tokens(mask, x.shape[1], None)
            recurrence_output = add_first_values(recurrence_output, v, first_token_weight, first)
        return F.linear(recurrence_output.flatten(2) * F.silu(gate), output_weight, output_bias)
