# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Write gate that responds to the token: logit(beta_t) = b + w.f_t, one Gauss-Newton step for w (see `gauss_newton`).

The memory is linear in what is written, so a change dz_t of the logits acts as other values in the same recurrence:

    S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
    dS_t = alpha_t (I - beta_t k_t k_t^T) dS_{t-1} + beta_t k_t (dz_t e_t)^T,     e_t = v_t - S_t^T k_t

for unit k_t: e_t is what the memory still lacks of v_t right after writing it.
"""

import torch
from torch import Tensor

from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.gauss_newton import gauss_newton_step
from hf_tc.calibration.input_features import InputFeatures
from hf_tc.calibration.output_gate import OutputGate
from hf_tc.modeling.gated_delta_rule import chunk_gated_delta_rule
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.recurrence_inputs import RecurrenceInputs


def write_gate_jacobian(features: Tensor, inputs: RecurrenceInputs) -> Tensor:
    """d o_t / d w_r of each head, `[B, T, H, V, R]`, where logit(beta_t) += w.f_t, for features `[B, T, R]`: exact."""
    in_memory, _ = chunk_gated_delta_rule(**inputs._replace(q=inputs.k * inputs.k.shape[-1] ** 0.5)._asdict())
    values = features[:, :, None, None] * (inputs.v - in_memory)[..., None]
    recurrence_output, _ = chunk_gated_delta_rule(**inputs._replace(v=values.flatten(3))._asdict())
    return recurrence_output.view(values.shape)


def solve_token_write_gate(
    mixer: GatedDeltaNet, captured: CapturedAttention, gate: OutputGate, features: InputFeatures
) -> dict[str, Tensor]:
    """New b_proj weight `[H, C]` and bias `[H]`, where the layer has one; without, no feature may need one."""

    def changed(x: Tensor, inputs: RecurrenceInputs, change: Tensor) -> RecurrenceInputs:
        return inputs._replace(beta=torch.sigmoid(mixer.b_proj(x) + change))

    weight, bias = gauss_newton_step(
        mixer,
        captured,
        gate,
        features,
        jacobian=lambda f, inputs, heads: write_gate_jacobian(f, inputs),
        changed=changed,
    )
    solved = {"b_proj.weight": mixer.b_proj.weight + weight}
    return solved if mixer.b_proj.bias is None else solved | {"b_proj.bias": mixer.b_proj.bias + bias}
