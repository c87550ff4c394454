# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A few directions of the layer's input, on which write gate and decay are made to depend.

    f_t = [1, U^T (x_t - mean)],   U: leading principal directions, each over its standard deviation

The features are white, so that one ridge strength treats all alike, and a function w.f of them is a linear function of
x, which a projection with a bias can hold exactly.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.constant_direction import folded_bias

RANK = 32  # principal directions; their number bounds the cost of a Jacobian


class InputFeatures(NamedTuple):
    """Features as a linear function of the layer's input: weight `[R, C]`, bias `[R]`. The first is the constant 1."""

    weight: Tensor
    bias: Tensor

    def of(self, attn_input: Tensor) -> Tensor:
        """`[B, T, C]` to `[B, T, R]`."""
        return F.linear(attn_input, self.weight, self.bias)

    def without_bias(self, constant: Tensor) -> "InputFeatures":
        """About the same features for a projection without a bias; `constant` is `constant_direction`."""
        return InputFeatures(folded_bias(self.weight, self.bias, constant), torch.zeros_like(self.bias))


def principal_features(mean: Tensor, covariance: Tensor, rank: int = RANK) -> InputFeatures:
    """The constant and the `rank` leading principal directions; directions in which nothing varies are left out.

    Args:
        mean, covariance: of the layer's input, `[C]` and `[C, C]`.
    """
    variances, directions = torch.linalg.eigh(covariance.double())
    kept = variances[-rank:] > 1e-6 * variances[-1].clamp_min(1e-30)
    white = (directions[:, -rank:] / variances[-rank:].clamp_min(1e-30).sqrt()).T[kept]  # [rank, C]
    return InputFeatures(F.pad(white, (0, 0, 1, 0)).float(), F.pad(-white @ mean.double(), (1, 0), value=1.0).float())


def input_features(captured: CapturedAttention, blocks: range) -> InputFeatures:
    """Features of the layer's input on some captured blocks."""
    width, device = captured.attn_input.shape[-1], captured.attn_input.device
    total = torch.zeros(width, dtype=torch.float64, device=device)
    products = torch.zeros(width, width, dtype=torch.float64, device=device)
    tokens = 0
    for block in blocks:
        x = captured.attn_input[block : block + 1].flatten(0, 1)
        total += x.sum(0, dtype=torch.float64)
        products += x.T @ x
        tokens += len(x)
    mean = total / tokens
    return principal_features(mean, products / tokens - mean[:, None] * mean)
