# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The weights of a student under the names, and in the terms, of Transformers' `Qwen3_5ForCausalLM`.

What that architecture computes otherwise than the teacher's, and what weights undo it:

    norms multiply by 1 + w                      w - 1
    attention has an output gate, sigmoid(z)     z = 0, a gate of 1/2, and twice W_o
    attention norms q and k (Llama: does not)    projections so small that the norm's epsilon is all it divides by, and
                                                 its weight the inverse of both: x / sqrt(x^2 + eps) ~ x / sqrt(eps)
    recurrent layers have H heads of k and v     rows of each K/V head repeated for the query heads that share it
    the convolution's first tap is the oldest    taps in the other order
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hf_tc.modeling.configuration_hybrid_gdn import HybridGDNConfig
from hf_tc.modeling.teacher_attention import head_dim_of

GATE = 0.5  # sigmoid(0)
# A power of 2 so small that heads of length 1,000 times it do not show beside the epsilon of a norm.
UNNORMED = 2.0**-24
RECURRENT_NAMES = {
    "A_log": "A_log",
    "dt_bias": "dt_bias",
    "a_proj.weight": "in_proj_a.weight",
    "b_proj.weight": "in_proj_b.weight",
    "g_proj.weight": "in_proj_z.weight",
    "o_norm.weight": "norm.weight",
    "o_proj.weight": "out_proj.weight",
}
ATTENTION, RECURRENT = "self_attn", "linear_attn"


def exported_weights(weights: Mapping[str, Tensor], config: HybridGDNConfig) -> dict[str, Tensor]:
    """All weights of a student that `check_exportable` accepts, by their names in `Qwen3_5ForCausalLM`.

    Args:
        weights: the student's `state_dict()`.
    """
    exported = {name: _norm_weight(name, tensor) for name, tensor in weights.items() if f".{ATTENTION}." not in name}
    for index, kind in enumerate(config.layer_types or []):
        prefix = f"model.layers.{index}."
        inside = f"{prefix}{ATTENTION}."
        own = {name.removeprefix(inside): tensor for name, tensor in weights.items() if name.startswith(inside)}
        if kind == "linear_attention":
            groups = own["q_proj.weight"].shape[0] // own["k_proj.weight"].shape[0]
            layer = recurrent_layer_weights(own, groups, head_dim_of(config.teacher_config))
            exported |= {f"{prefix}{RECURRENT}.{name}": tensor for name, tensor in layer.items()}
        else:
            layer = attention_weights(own, head_dim_of(config.teacher_config), config.teacher_config.rms_norm_eps)
            exported |= {f"{prefix}{ATTENTION}.{name}": tensor for name, tensor in layer.items()}
    if config.tie_word_embeddings:
        exported.pop("lm_head.weight", None)
    return {name: tensor.contiguous() for name, tensor in exported.items()}


def recurrent_layer_weights(own: Mapping[str, Tensor], groups: int, head_dim: int) -> dict[str, Tensor]:
    """Of a mixer of the qwen3_5 form, by names in it, to `Qwen3_5GatedDeltaNet`.

    Args:
        groups: query heads that share a K/V head.
    """
    exported = {name: own[ours] for ours, name in RECURRENT_NAMES.items()}
    q, k, v = (own[f"{name}_proj.weight"] for name in "qkv")
    k, v = (_repeated(x, groups, head_dim) for x in (k, v))
    exported["in_proj_qkv.weight"] = torch.cat([q, k, v])
    kv_channels = own["k_proj.weight"].shape[0]
    taps = own["short_conv.weight"].flip(0).T  # [channels, kernel_size], the oldest token first
    of_q, of_k, of_v = taps.split([q.shape[0], kv_channels, kv_channels])
    of_k, of_v = (_repeated(x, groups, head_dim) for x in (of_k, of_v))
    exported["conv1d.weight"] = torch.cat([of_q, of_k, of_v])[:, None]
    return exported


def attention_weights(own: Mapping[str, Tensor], head_dim: int, eps: float) -> dict[str, Tensor]:
    """Of an attention of Llama, Qwen2 or Qwen3, by names in it, to `Qwen3_5Attention`.

    Args:
        eps: of all norms, `rms_norm_eps`.
    """
    exported = {name: tensor for name, tensor in own.items() if name.startswith(("v_proj", "o_proj"))}
    exported["o_proj.weight"] = own["o_proj.weight"] / GATE
    for x in "qk":
        norm = own.get(f"{x}_norm.weight")
        shrink = 1.0 if norm is not None else UNNORMED
        weight = norm.float() if norm is not None else torch.full((head_dim,), math.sqrt(eps) / UNNORMED)
        exported[f"{x}_norm.weight"] = weight - 1.0
        for kind in ("weight", "bias"):
            if f"{x}_proj.{kind}" in own:
                exported[f"{x}_proj.{kind}"] = own[f"{x}_proj.{kind}"] * shrink
    for kind in ("weight", "bias"):
        if f"q_proj.{kind}" in own:
            query = exported[f"q_proj.{kind}"].unflatten(0, (-1, head_dim))
            exported[f"q_proj.{kind}"] = torch.cat([query, torch.zeros_like(query)], dim=1).flatten(0, 1)
    if "q_proj.bias" in own and "o_proj.bias" not in own:  # there all four have a bias, or none
        exported["o_proj.bias"] = own["o_proj.weight"].new_zeros(own["o_proj.weight"].shape[0])
    return exported


def _norm_weight(name: str, tensor: Tensor) -> Tensor:
    """Of norms outside attention, in float32: in 16 bits w - 1 would lose digits that w had."""
    return tensor.float() - 1.0 if name.endswith("norm.weight") else tensor


def _repeated(rows: Tensor, groups: int, head_dim: int) -> Tensor:
    """`[KV * D, ...]` to `[H * D, ...]`: what query heads share, once for each of them."""
    return rows.unflatten(0, (-1, head_dim)).repeat_interleave(groups, 0).flatten(0, 1)
