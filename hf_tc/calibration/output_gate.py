# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Output gate: how large each head's output is at each token, as a linear function of the layer's input.

With n the output of the recurrence, which the gate multiplies, the scale that brings n_t onto the teacher's context is
s_t = <n_t, c_t> / |n_t|^2. It is regressed on x_t, weighted by |n_t|^2 (so the error is the context's), and given to
SiLU around a working point where SiLU is almost straight:

    SiLU(g_t) ~ SiLU(w) * s_t / size    for   g_t = w + SiLU(w) / SiLU'(w) * (s_t / size - 1),   w = 4

The factor size / SiLU(w) of each head goes into o_proj (see `output_projection`). Where the gate has no bias, u.x
stands for 1 everywhere (see `constant_direction`), in the regression and in the gate.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.constant_direction import folded_bias
from hf_tc.calibration.recurrence_outputs import before_gate, block_batches, context_by_head, recurrence_inputs
from hf_tc.calibration.ridge import LeastSquares
from hf_tc.modeling.gated_deltanet import GatedDeltaNet

WORKING_POINT = 4.0
_SIGMOID = 1 / (1 + math.exp(-WORKING_POINT))
SIZE_AT_WORKING_POINT = WORKING_POINT * _SIGMOID
SLOPE_AT_WORKING_POINT = _SIGMOID * (1 + WORKING_POINT * (1 - _SIGMOID))
SMALLEST_SIZE = 1e-6  # of a head that the teacher leaves silent; keeps the gate finite


class OutputGate(NamedTuple):
    """weight `[H, C]` and bias `[H]` of the gate before SiLU; scale `[H]`, what o_proj must multiply the head with."""

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def gate_scale(self, attn_input: Tensor) -> Tensor:
        """What the head's output is multiplied with on its way to the teacher's context, `[B, T, H]`."""
        return F.silu(F.linear(attn_input, self.weight, self.bias)) * self.scale


def wanted_scale(recurrence_output: Tensor, context: Tensor) -> Tensor:
    """Scale that brings the output onto the context, per token and head: two `[.., V]` to `[..]`."""
    return (recurrence_output * context).sum(-1) / recurrence_output.square().sum(-1).clamp_min(1e-20)


def gate_from_regression(coefficients: Tensor, intercept: Tensor, size: Tensor) -> OutputGate:
    """The gate that gives a regressed scale.

    Args:
        coefficients, intercept: `[H, C]` and `[H]`, of the scale on x.
        size: `[H]`, positive: the typical size of the scale, which is put at SiLU's working point.
    """
    stretch = SIZE_AT_WORKING_POINT / SLOPE_AT_WORKING_POINT / size
    return OutputGate(
        coefficients * stretch[:, None], WORKING_POINT + stretch * (intercept - size), size / SIZE_AT_WORKING_POINT
    )


def solve_output_gate(mixer: GatedDeltaNet, captured: CapturedAttention, constant: Tensor | None = None) -> OutputGate:
    """The gate of every head by weighted ridge regression towards a constant gate.

    Args:
        constant: `constant_direction`, for a gate without a bias.
    """
    return _regressed_gate(mixer, captured, captured.attn_input.shape[-1], constant)


def solve_constant_gate(
    mixer: GatedDeltaNet, captured: CapturedAttention, constant: Tensor | None = None
) -> OutputGate:
    """One scale per head, as in the paper (arXiv 2606.16429, section 3.2): the gate of all tokens at its best size."""
    return _regressed_gate(mixer, captured, 0, constant)


def _regressed_gate(
    mixer: GatedDeltaNet, captured: CapturedAttention, channels: int, constant: Tensor | None
) -> OutputGate:
    """The gate as a function of the first channels of the layer's input."""
    sums = LeastSquares.empty(channels + 1, 1, captured.attn_input.device, mixer.num_heads)
    for rows in block_batches(captured):
        x = captured.attn_input[rows]
        one = torch.ones_like(x[..., :1]) if constant is None else (x @ constant)[..., None]
        features = torch.cat([x[..., :channels], one], dim=-1).flatten(0, 1)
        recurrence_output, _ = before_gate(mixer, recurrence_inputs(mixer, captured, rows))
        context = context_by_head(captured, rows, mixer.head_dim)
        scale, weight = (
            wanted_scale(recurrence_output, context).flatten(0, 1),
            recurrence_output.square().sum(-1).sqrt().flatten(0, 1),
        )
        wanted = scale * weight
        for head in range(mixer.num_heads):
            sums.add(features * weight[:, head, None], wanted[:, head, None], head)
    solution, size = _solve_heads(sums)
    gate = gate_from_regression(solution[:, :-1], solution[:, -1], size)
    gate = gate._replace(weight=F.pad(gate.weight, (0, captured.attn_input.shape[-1] - channels)))
    if constant is None:
        return gate
    return gate._replace(weight=folded_bias(gate.weight, gate.bias, constant), bias=torch.zeros_like(gate.bias))


def _solve_heads(sums: LeastSquares) -> tuple[Tensor, Tensor]:
    """Coefficients and intercept `[H, C + 1]`, and the typical size `[H]` of the fitted scale over weighted tokens."""
    prior = torch.zeros_like(sums.cross)
    weight_sum = sums.gram[:, -1, -1].clamp_min(1e-30)
    prior[:, -1] = sums.cross[:, -1] / weight_sum[:, None]  # the best constant gate
    solution = sums.solve(prior=prior)
    mean_square = (solution.mT @ (sums.gram @ solution)).flatten() / weight_sum
    return solution[..., 0].float(), mean_square.clamp_min(SMALLEST_SIZE**2).sqrt().float()
