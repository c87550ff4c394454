# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the mixer takes over from a family's attention module, found by structure rather than by family name."""

import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn

OUTPUT_PROJECTION_NAMES = ("o_proj", "dense", "out_proj")
FUSED_PROJECTION_NAMES = ("qkv_proj", "query_key_value")
NORM_BEFORE_ROTATION = (("q_norm", "k_norm"), ("q_layernorm", "k_layernorm"))
NORM_AFTER_ROTATION = (("query_layernorm", "key_layernorm"),)


def find_attention(decoder_layer: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the self-attention of a decoder layer.

    Raises:
        ValueError: the layer has no child that looks like a self-attention with query, key and value projections.
    """
    for name, child in decoder_layer.named_children():
        projects = hasattr(child, "q_proj") or any(hasattr(child, fused) for fused in FUSED_PROJECTION_NAMES)
        if projects and "Attention" in type(child).__name__ and hasattr(child, "layer_idx"):
            return name, child
    children = ", ".join(f"{name}: {type(child).__name__}" for name, child in decoder_layer.named_children())
    raise ValueError(f"No self-attention with q/k/v projections in {type(decoder_layer).__name__} ({children}).")


def find_decoder_layers(backbone: nn.Module) -> nn.ModuleList:
    """The list of decoder layers of a backbone.

    Raises:
        ValueError: the backbone has no `layers`.
    """
    layers = getattr(backbone, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"{type(backbone).__name__} has no `layers`; only backbones built of layers can convert.")
    return layers


def projection(attention: nn.Module, name: str) -> nn.Linear:
    """A projection of an attention module: an `nn.Linear`, or what quantisers and adapters put in its place."""
    return getattr(attention, name)


def output_projection(attention: nn.Module) -> nn.Linear:
    """The projection after attention x values, whatever its name."""
    for name in OUTPUT_PROJECTION_NAMES:
        if hasattr(attention, name):
            return projection(attention, name)
    raise ValueError(f"{type(attention).__name__} has none of {OUTPUT_PROJECTION_NAMES}.")


def without_bias(linear: nn.Linear) -> nn.Linear:
    """A projection whose bias, where it had one, was taken from it."""
    linear.bias = None  # type: ignore[assignment]  # a module without a bias has None there
    return linear


def head_dim_of(text_config: Any) -> int:
    """Channels of an attention head by a teacher's configuration."""
    return getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads


def head_shape(attention: nn.Module, text_config: Any) -> tuple[int, int, int]:
    """(query heads, K/V heads, head dimension) of an attention module."""
    head_dim = getattr(attention, "head_dim", None) or getattr(attention, "head_size", None)
    if head_dim is None:
        head_dim = head_dim_of(text_config)
    heads = text_config.num_attention_heads
    kv_heads = getattr(text_config, "num_key_value_heads", None) or heads
    if hasattr(attention, "q_proj"):  # the weights know better than the configuration where layers differ
        heads, kv_heads = (projection(attention, name).out_features // head_dim for name in ("q_proj", "k_proj"))
    fused = fused_projection(attention)
    if fused is not None:
        kv_heads = (fused.out_features // head_dim - heads) // 2
    return heads, kv_heads, head_dim


def split_fused_projection(
    fused: torch.Tensor, attention: nn.Module, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v rows of a fused weight `[rows, C]` or bias `[rows]`.

    `query_key_value` (GPT-NeoX) keeps q, k, v of a head together; `qkv_proj` (Phi-3) keeps all heads of q together.
    """
    heads, kv_heads, head_dim = shape
    if hasattr(attention, "query_key_value"):
        q, k, v = (part.flatten(0, 1) for part in fused.unflatten(0, (heads, 3, head_dim)).unbind(1))
    else:
        q, k, v = fused.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim])
    return q, k, v


def fused_projection(attention: nn.Module) -> nn.Linear | None:
    """The one projection to q, k and v together, or None where they are apart."""
    for name in FUSED_PROJECTION_NAMES:
        if hasattr(attention, name):
            return projection(attention, name)
    return None


def query_key_norms(attention: nn.Module) -> tuple[nn.Module | None, nn.Module | None, bool]:
    """q norm, k norm, and whether they follow the rotation; (None, None, False) where there are none."""
    for pairs, after_rotation in ((NORM_BEFORE_ROTATION, False), (NORM_AFTER_ROTATION, True)):
        for query_name, key_name in pairs:
            if getattr(attention, query_name, None) is not None:
                return getattr(attention, query_name), getattr(attention, key_name), after_rotation
    return None, None, False


def rotary_function(attention: nn.Module) -> Callable[..., tuple[torch.Tensor, torch.Tensor]] | None:
    """The family's own `apply_rotary_pos_emb`, `[B, H, T, K]`; None where this layer has no positions (NoPE).

    Families that rotate the first channels only do so inside this function, or around it (`rotary_ndims`).
    """
    if not getattr(attention, "use_rope", True):
        return None
    rotate = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
    channels = getattr(attention, "rotary_ndims", None)
    return rotate if rotate is None or channels is None else partial(_rotate_first, rotate, channels)


@cache
def rotates_halves(rotate: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> bool:
    """Whether a family's rotation is Llama's, x cos + (-x2, x1) sin on the halves of a head; found out by trying it."""
    generator = torch.Generator().manual_seed(0)
    x, angles = (torch.randn(1, 1, 3, size, generator=generator) for size in (8, 4))
    cos, sin = (torch.cat([value, value], dim=-1)[0] for value in (angles.cos(), angles.sin()))
    x1, x2 = x.chunk(2, dim=-1)
    expected = x * cos + torch.cat([-x2, x1], dim=-1) * sin
    try:
        return all(torch.allclose(actual, expected, atol=1e-5) for actual in rotate(x, x, cos, sin))
    except RuntimeError:  # it wants tensors of other shapes
        return False


def rms_norm_offset(norm: nn.Module) -> float | None:
    """What a family's RMS norm adds to its weight before it multiplies by it: 0 in most, 1 in Gemma's; None for another
    kind of norm."""
    norm_class: Any = type(norm)
    return _offset_of(norm_class)


@cache
def _offset_of(norm_class: Any) -> float | None:
    """Found out by trying a norm of this class."""
    with torch.random.fork_rng(devices=[]):
        try:
            norm, x = norm_class(8), torch.linspace(1.0, 3.0, 16).view(2, 8)
        except TypeError:  # it is built from something else than a size
            return None
    weight = getattr(norm, "weight", None)
    if weight is None or getattr(norm, "bias", None) is not None:
        return None
    weight.data.copy_(torch.linspace(0.5, 1.5, 8))
    scale = norm(x).detach() / (x * torch.rsqrt(x.square().mean(-1, keepdim=True)))
    return next((offset for offset in (0.0, 1.0) if torch.allclose(scale, weight + offset, atol=1e-3)), None)


def _rotate_first(
    rotate: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    channels: int,
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    rotated = rotate(q[..., :channels], k[..., :channels], cos, sin)
    q, k = (torch.cat([head, x[..., channels:]], dim=-1) for head, x in zip(rotated, (q, k), strict=True))
    return q, k
