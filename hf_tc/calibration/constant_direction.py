# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A bias for projections that have none: the linear function of the layer's input that is nearest to 1 everywhere.

    u = argmin over u of  sum_t (u.x_t - 1)^2 + ridge,   so that  W x + b ~ (W + b u^T) x

A language model's hidden states share a direction that varies little from token to token, so that u.x is near 1; how
near, every solve after it sees, since it is fitted on what the layer really computes.
"""

import torch
from torch import Tensor

from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.recurrence_outputs import block_batches
from hf_tc.calibration.ridge import LeastSquares

PRIOR_TOKENS = 1.0  # there is nothing to stay near to; enough to have one answer where inputs do not vary


def constant_direction(captured: CapturedAttention) -> Tensor:
    """u `[C]` in float32."""
    sums = LeastSquares.empty(captured.attn_input.shape[-1], 1, captured.attn_input.device)
    for rows in block_batches(captured):
        x = captured.attn_input[rows].flatten(0, 1)
        sums.add(x, torch.ones_like(x[:, :1]))
    return sums.solve(prior=torch.zeros_like(sums.cross), prior_tokens=PRIOR_TOKENS)[:, 0].float()


def folded_bias(weight: Tensor, bias: Tensor, constant: Tensor) -> Tensor:
    """Weight `[R, C]` that does about what weight and bias `[R]` would; `constant` is u `[C]`."""
    return weight + bias.to(weight)[:, None] * constant.to(weight)
