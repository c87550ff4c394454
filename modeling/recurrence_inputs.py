# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a recurrent layer makes of its input, and what of it the gated delta rule reads."""

from typing import NamedTuple

import torch

L2_EPS = 1e-6


class Projections(NamedTuple):
    """qkv `[B, T, channels]` side by side, a and b `[B, T, H]` behind decay and write gate, gate `[B, T, H * V]`."""

    qkv: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    gate: torch.Tensor


class RecurrenceInputs(NamedTuple):
    """What the gated delta rule reads; per query head. q, k `[B, T, H, K]`, v `[B, T, H, V]`, the rest `[B, T, H]`."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    log_decay: torch.Tensor
    beta: torch.Tensor


def l2_normalise(x: torch.Tensor) -> torch.Tensor:
    """Unit vectors along the last dimension, computed in float32 (float64 stays)."""
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + L2_EPS)).to(x.dtype)
