# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Decay that responds to the token: log alpha_t = -exp(A_log) softplus(dt_bias + w.f_t), one Gauss-Newton step for w.

With G_t the running sum of log alpha, exp(-G_t) S_t obeys a recurrence that is free of the decay and linear in the
values exp(-G_t) v_t. A change d log alpha_t, summed up to D_t, therefore acts as

    do_t = D_t o_t - (the output of a memory whose values are D_s v_s)
"""

import torch.nn.functional as F
from torch import Tensor

from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.gauss_newton import gauss_newton_step
from hf_tc.calibration.input_features import InputFeatures
from hf_tc.calibration.output_gate import OutputGate
from hf_tc.modeling.decay import log_decay
from hf_tc.modeling.gated_delta_rule import chunk_gated_delta_rule
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.recurrence_inputs import RecurrenceInputs


def decay_slope(log_alpha: Tensor, A_log: Tensor) -> Tensor:
    """d log alpha / dz for log alpha = -exp(A_log) softplus(z), from its value: -exp(A_log) sigmoid(z)."""
    size = A_log.exp()
    return size * (log_alpha / size).expm1()


def decay_jacobian(features: Tensor, inputs: RecurrenceInputs, slope: Tensor) -> Tensor:
    """d o_t / d w_r of each head, `[B, T, H, V, R]`, where the decay's z_t += w.f_t: exact.

    Args:
        features: `[B, T, R]`.
        slope: d log alpha_t / dz_t, `[B, T, H]`.
    """
    summed = (slope[..., None] * features[:, :, None]).cumsum(1)[:, :, :, None]
    values = F.pad(summed, (0, 1), value=1.0) * inputs.v[..., None]  # [B, T, H, V, R + 1]
    both, _ = chunk_gated_delta_rule(**inputs._replace(v=values.flatten(3))._asdict())
    of_summed, recurrence_output = both.view(values.shape).split([features.shape[-1], 1], dim=-1)
    return (summed * recurrence_output).sub_(of_summed)


def solve_token_decay(
    mixer: GatedDeltaNet, captured: CapturedAttention, gate: OutputGate, features: InputFeatures
) -> dict[str, Tensor]:
    """New a_proj weight `[H, C]` and dt_bias `[H]`."""

    def jacobian(features: Tensor, inputs: RecurrenceInputs, heads: slice) -> Tensor:
        return decay_jacobian(features, inputs, decay_slope(inputs.log_decay, mixer.A_log[heads]))

    def changed(x: Tensor, inputs: RecurrenceInputs, change: Tensor) -> RecurrenceInputs:
        return inputs._replace(log_decay=log_decay(mixer.a_proj(x) + change, mixer.A_log, mixer.dt_bias))

    weight, bias = gauss_newton_step(mixer, captured, gate, features, jacobian=jacobian, changed=changed)
    return {"a_proj.weight": mixer.a_proj.weight + weight, "dt_bias": mixer.dt_bias + bias}
