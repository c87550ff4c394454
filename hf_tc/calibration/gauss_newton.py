# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One Gauss-Newton step for a gate inside the recurrence, per head.

The recurrence's output o is not linear in such a gate. With J its derivative by weights w on features f of the input,

    min over w of  sum_t |c_t - s_t (o_t + J_t w)|^2 + ridge      (s_t: the output gate; o_t after the norm, if any)

and of {1, 1/2, 1/4, 0} times that step each head keeps the one with the smallest true residual, measured on blocks that
the step was not fitted to where there are several.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.input_features import InputFeatures, input_features
from hf_tc.calibration.output_gate import OutputGate
from hf_tc.calibration.recurrence_outputs import (
    BATCH_VALUES_ON_GPU,
    before_gate,
    context_by_head,
    recurrence_inputs,
    solved_at_once,
)
from hf_tc.calibration.ridge import LeastSquares
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.recurrence_inputs import RecurrenceInputs

# How many tokens of data "the same at all tokens" is worth. Found on the 22 M bench teacher.
PRIOR_TOKENS = 200.0
FIT_TOKENS = 8192  # a step has some 30 unknowns a head: more text costs time and changes it little
CHOICE_SHARE = 0.25  # of the blocks, at most FIT_TOKENS of them, choose the length of the step
JACOBIAN_TOKENS = 2048  # tokens whose Jacobian, of some heads, is worked on at the same time
STEP_LENGTHS = (1.0, 0.5, 0.25, 0.0)

Jacobian = Callable[[Tensor, RecurrenceInputs, slice], Tensor]
Changed = Callable[[Tensor, RecurrenceInputs, Tensor], RecurrenceInputs]


def gauss_newton_step(
    mixer: GatedDeltaNet,
    captured: CapturedAttention,
    gate: OutputGate,
    features: InputFeatures,
    *,
    jacobian: Jacobian,
    changed: Changed,
) -> tuple[Tensor, Tensor]:
    """What to add to the weight `[H, C]` and the bias `[H]` of the gate's projection.

    Args:
        gate: the output gate, held where it is.
        features: `features_to_fit`.
        jacobian: d o / d w `[B, T, H, V, R]`, of features `[B, T, R]` and the recurrence inputs of some heads, these.
        changed: the recurrence inputs after the gate's projection of x `[B, T, C]`, before its non-linearity, changed
            by `[B, T, H]`.
    """
    fit, choice = _blocks_to_fit_and_to_choose(*captured.attn_input.shape[:2])
    step = _full_step(mixer, captured, fit, gate, features, jacobian)
    trials = torch.stack([length * step for length in STEP_LENGTHS])
    residuals = _residuals(mixer, captured, choice, gate, features, trials, changed)
    best = trials.gather(0, residuals.argmin(0)[None, :, None].expand(1, *step.shape))[0]
    return best @ features.weight, best @ features.bias


def features_to_fit(captured: CapturedAttention) -> InputFeatures:
    """Features of the blocks that steps are fitted to: the layer's input, so that all its steps have the same."""
    return input_features(captured, _blocks_to_fit_and_to_choose(*captured.attn_input.shape[:2])[0])


def _blocks_to_fit_and_to_choose(blocks: int, length: int) -> tuple[range, range]:
    """The first blocks and the last; the same one where there is one alone."""
    most = max(1, FIT_TOKENS // length)
    choice = min(most, max(1, round(CHOICE_SHARE * blocks)))
    return range(min(most, max(1, blocks - choice))), range(blocks - choice, blocks)


def _batches(blocks: range, length: int, tokens: int) -> Iterator[slice]:
    step = max(1, tokens // length)
    return (slice(start, min(start + step, blocks.stop)) for start in range(blocks.start, blocks.stop, step))


def _full_step(
    mixer: GatedDeltaNet,
    captured: CapturedAttention,
    blocks: range,
    gate: OutputGate,
    features: InputFeatures,
    jacobian: Jacobian,
) -> Tensor:
    """The minimum of the linearised problem, `[H, R]`."""
    unknowns, length, device = len(features.bias), captured.attn_input.shape[1], captured.attn_input.device
    sums = LeastSquares.empty(unknowns, 1, device, mixer.num_heads)
    for rows in _batches(blocks, length, JACOBIAN_TOKENS):
        x = captured.attn_input[rows]
        inputs, feature = recurrence_inputs(mixer, captured, rows), features.of(x)
        gated, factor = before_gate(mixer, inputs)
        gate_scale, context = gate.gate_scale(x), context_by_head(captured, rows, mixer.head_dim)
        missing = context - gate_scale[..., None] * gated
        # The output is linear in q: with the output gate on q, its derivative comes gated.
        inputs = inputs._replace(q=inputs.q * gate_scale[..., None])
        for heads in _heads_at_once(mixer, feature):
            some = RecurrenceInputs(*(part[:, :, heads] for part in inputs))
            # Of a block longer than JACOBIAN_TOKENS, some features at a time.
            groups = min(unknowns, -(-feature.shape[:2].numel() // JACOBIAN_TOKENS))
            parts = [jacobian(f, some, heads) for f in feature.tensor_split(groups, -1)]
            derivative = parts[0] if groups == 1 else torch.cat(parts, -1)
            about = derivative, gated[:, :, heads], factor[:, :, heads], missing[:, :, heads]
            for tokens in zip(*(part.split(JACOBIAN_TOKENS, dim=1) for part in about), strict=True):
                _add(sums, heads, *tokens, normed=mixer.o_norm is not None)
    start = torch.zeros_like(sums.cross)
    # A token gives V rows.
    return sums.solve(prior=start, prior_tokens=PRIOR_TOKENS * mixer.head_dim)[..., 0].float()


def _heads_at_once(mixer: GatedDeltaNet, feature: Tensor) -> list[slice]:
    """Heads whose Jacobians exist at the same time: on a CPU one, on a GPU as many as it is not kept waiting with."""
    values = feature.numel() * mixer.head_dim  # of the Jacobian of one head
    most = max(1, BATCH_VALUES_ON_GPU // values) if feature.is_cuda else 1
    return [slice(start, min(start + most, mixer.num_heads)) for start in range(0, mixer.num_heads, most)]


def _add(
    sums: LeastSquares,
    heads: slice,
    derivative: Tensor,
    gated: Tensor,
    factor: Tensor,
    missing: Tensor,
    *,
    normed: bool,
) -> None:
    """Adds tokens of some heads: derivative `[B, T, H, V, R]`, gated and missing `[B, T, H, V]`, factor `[B, T, H]`."""
    if normed:
        derivative = normed_derivative(derivative, gated, factor)
    sums.add(derivative.movedim(2, 0), missing[..., None].movedim(2, 0), heads)


def normed_derivative(derivative: Tensor, normed: Tensor, factor: Tensor) -> Tensor:
    """Derivative of n = f o with f = 1 / rms(o), from that of o: dn = f (do - n <n, do> / V).

    derivative `[.., V, R]`, normed `[.., V]`, factor `[..]`.
    """
    along = (normed[..., None] * derivative).mean(-2, keepdim=True)
    return factor[..., None, None] * (derivative - normed[..., None] * along)


def _residuals(
    mixer: GatedDeltaNet,
    captured: CapturedAttention,
    blocks: range,
    gate: OutputGate,
    features: InputFeatures,
    trials: Tensor,
    changed: Changed,
) -> Tensor:
    """Squared error of the gated output after each of some steps `[trials, H, R]`, per head: `[trials, H]`."""
    totals = torch.zeros(trials.shape[:2], dtype=torch.float64, device=trials.device)
    at_once = solved_at_once(mixer.num_heads * mixer.head_dim, on_gpu=True) if trials.is_cuda else JACOBIAN_TOKENS
    for rows in _batches(blocks, captured.attn_input.shape[1], at_once):
        x, context = captured.attn_input[rows], context_by_head(captured, rows, mixer.head_dim)
        inputs, feature = recurrence_inputs(mixer, captured, rows), features.of(x)
        gate_scale = gate.gate_scale(x)[..., None]
        for total, trial in zip(totals, trials, strict=True):
            gated = before_gate(mixer, changed(x, inputs, feature @ trial.T))[0] * gate_scale
            total += (context - gated).square().sum((0, 1, 3))
    return totals
