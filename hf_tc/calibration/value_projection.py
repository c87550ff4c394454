# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Value projection: the output of the recurrence is linear in W_v, so the best W_v is a least-squares solution.

    o_t = sum_i M_ti W_v x_i = W_v z_t,   z_t = sum_i M_ti x_i      (M from q, k, decay and beta)
    min over W_v of  sum_t |c_t - s_t W_v z_t|^2                    (s_t: the output gate)

z is the output of a memory whose values are the layer's inputs. Query heads that share a K/V head give rows to the
same regression. Where an activation follows the convolution, v is taken for the line through it, whose slope is in s_t.
The paper has one scale per head here (arXiv 2606.16429, section 3.2); this is its full-rank form.
"""

import torch
from torch import Tensor

from hf_tc.calibration.activation_range import SLOPE, is_activated
from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.output_gate import OutputGate
from hf_tc.calibration.recurrence_outputs import block_batches, context_by_head, norm_factor, recurrence_inputs
from hf_tc.calibration.ridge import LeastSquares
from hf_tc.modeling.gated_delta_rule import chunk_gated_delta_rule
from hf_tc.modeling.gated_deltanet import GatedDeltaNet


def share_scale(mixer: GatedDeltaNet, scale: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Moves what query heads of a K/V head have in common of their scale `[H]` into W_v, as the paper does.

    Returns the new v_proj weights and what is left of the scale for o_proj. Where a norm follows the recurrence it
    would undo a scale of the values, and all of it is left.
    """
    if mixer.o_norm is not None:
        return {}, scale
    groups = mixer.num_heads // mixer.num_kv_heads
    common = scale.unflatten(0, (mixer.num_kv_heads, groups)).log().mean(1).exp()
    rows = common.repeat_interleave(mixer.head_dim)
    scaled = {"v_proj.weight": mixer.v_proj.weight * rows[:, None]}
    if mixer.v_proj.bias is not None:
        scaled["v_proj.bias"] = mixer.v_proj.bias * rows
    return scaled, scale / common.repeat_interleave(groups)


def solve_value_projection(mixer: GatedDeltaNet, captured: CapturedAttention, gate: OutputGate) -> dict[str, Tensor]:
    """New v_proj weight `[H_kv * V, C]` (and bias, where the teacher has one), by ridge towards the present one."""
    hidden, groups = captured.attn_input.shape[-1], mixer.num_heads // mixer.num_kv_heads
    has_bias = mixer.v_proj.bias is not None
    device = captured.attn_input.device
    sums = LeastSquares.empty(hidden + has_bias, mixer.head_dim, device, mixer.num_kv_heads)
    for rows in block_batches(captured):
        inputs = recurrence_inputs(mixer, captured, rows)
        x = captured.attn_input[rows]
        values = torch.cat([x, torch.ones_like(x[..., :1])], -1) if has_bias else x
        gate_scale = gate.gate_scale(x) * norm_factor(mixer, inputs) * _slope(mixer)
        context = context_by_head(captured, rows, mixer.head_dim)
        for head in range(mixer.num_heads):
            one = slice(head, head + 1)
            mixed, _ = chunk_gated_delta_rule(
                q=inputs.q[:, :, one],
                k=inputs.k[:, :, one],
                v=values[:, :, None],
                log_decay=inputs.log_decay[:, :, one],
                beta=inputs.beta[:, :, one],
            )
            sums.add(mixed[:, :, 0] * gate_scale[..., one], context[:, :, head], head // groups)
    bias = [] if mixer.v_proj.bias is None else [mixer.v_proj.bias[:, None]]
    prior = torch.cat([mixer.v_proj.weight, *bias], dim=1).unflatten(0, (mixer.num_kv_heads, -1))
    solution = sums.solve(prior=prior.mT).mT.flatten(0, 1).float()
    if not has_bias:
        return {"v_proj.weight": solution}
    return {"v_proj.weight": solution[:, :-1].contiguous(), "v_proj.bias": solution[:, -1].contiguous()}


def _slope(mixer: GatedDeltaNet) -> Tensor | float:
    """What stands between W_v x and the values: 1, or the tap of each query head's values times SiLU's slope, `[H]`."""
    if not is_activated(mixer):
        return 1.0
    assert mixer.short_conv is not None
    first_of_each = mixer.short_conv.weight[0].unflatten(0, (-1, mixer.head_dim))[-mixer.num_kv_heads :, 0]
    return SLOPE * first_of_each.repeat_interleave(mixer.num_heads // mixer.num_kv_heads)
