# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Output projection: ridge regression of the teacher's attention output on the gated output of the recurrence.

The prior is the teacher's projection with each head's columns times the head's scale.
"""

import torch
from torch import Tensor

from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.recurrence_outputs import before_gate, block_batches, recurrence_inputs
from hf_tc.calibration.ridge import LeastSquares
from hf_tc.modeling.gated_deltanet import GatedDeltaNet


def scaled_output_projection(weight: Tensor, scale: Tensor) -> Tensor:
    """o_proj's weight `[C, H * V]` with the columns of head h times scale[h], `[H]`."""
    per_head = weight.unflatten(1, (len(scale), -1))
    return (per_head * scale.to(weight)[None, :, None]).flatten(1)


def solve_output_projection(mixer: GatedDeltaNet, captured: CapturedAttention, scale: Tensor) -> dict[str, Tensor]:
    """New o_proj weight `[C, H * V]`; scale `[H]` brings the gated output onto the teacher's context."""
    inner, hidden = mixer.o_proj.in_features, mixer.o_proj.out_features
    sums = LeastSquares.empty(inner, hidden, captured.attn_input.device)
    bias = 0.0 if mixer.o_proj.bias is None else mixer.o_proj.bias
    # In units of the teacher's context, so that the ridge weighs all heads alike.
    columns = scale.repeat_interleave(mixer.head_dim)
    for rows in block_batches(captured):
        x = captured.attn_input[rows]
        recurrence_output, _ = before_gate(mixer, recurrence_inputs(mixer, captured, rows))
        gated = recurrence_output.flatten(2) * torch.nn.functional.silu(mixer.g_proj(x))
        sums.add(gated * columns, captured.teacher_output[rows] - bias)
    solution = sums.solve(prior=mixer.o_proj.weight.T).T.float()
    return {"o_proj.weight": scaled_output_projection(solution, scale)}


def value_scale(weight: Tensor, teacher_weight: Tensor, heads: int) -> Tensor:
    """Size of each head's columns relative to the teacher's, `[H]`: what the fit did to the head's values."""
    new, old = (w.double().unflatten(1, (heads, -1)).square().sum((0, 2)).sqrt() for w in (weight, teacher_weight))
    return new / old.clamp_min(1e-12)
