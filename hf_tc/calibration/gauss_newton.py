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
from hf_tc.calibration.recurrence_outputs import before_gate, context_by_head, recurrence_inputs
from hf_tc.calibration.ridge import LeastSquares
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.recurrence_inputs import RecurrenceInputs

# How many tokens of data "the same at all tokens" is worth. Found on the 22 M bench teacher.
PRIOR_TOKENS = 200.0
FIT_TOKENS = 8192  # a step has some 30 unknowns a head: more text costs time and changes it little
CHOICE_SHARE = 0.25  # of the blocks, at most FIT_TOKENS of them, choose the length of the step
JACOBIAN_TOKENS = 2048  # tokens whose Jacobian, of one head, is worked on at the same time
STEP_LENGTHS = (1.0, 0.5, 0.25, 0.0)

Jacobian = Callable[[Tensor, RecurrenceInputs, int], Tensor]
Changed = Callable[[Tensor, RecurrenceInputs, Tensor], RecurrenceInputs]


def gauss_newton_step(
    mixer: GatedDeltaNet, captured: CapturedAttention, gate: OutputGate, *, jacobian: Jacobian, changed: Changed
) -> tuple[Tensor, Tensor]:
    """What to add to the weight `[H, C]` and the bias `[H]` of the gate's projection.

    Args:
        gate: the output gate, held where it is.
        jacobian: d o / d w `[B, T, V, R]`, of features `[B, T, R]`, the recurrence inputs of one head, and its index.
        changed: the recurrence inputs after the gate's projection of x `[B, T, C]`, before its non-linearity, changed
            by `[B, T, H]`.
    """
    fit, choice = _blocks_to_fit_and_to_choose(*captured.attn_input.shape[:2])
    features = input_features(captured, fit)
    step = _full_step(mixer, captured, fit, gate, features, jacobian)
    trials = torch.stack([length * step for length in STEP_LENGTHS])
    residuals = _residuals(mixer, captured, choice, gate, features, trials, changed)
    best = trials.gather(0, residuals.argmin(0)[None, :, None].expand(1, *step.shape))[0]
    return best @ features.weight, best @ features.bias


def _blocks_to_fit_and_to_choose(blocks: int, length: int) -> tuple[range, range]:
    """The first blocks and the last; the same one where there is one alone."""
    most = max(1, FIT_TOKENS // length)
    choice = min(most, max(1, round(CHOICE_SHARE * blocks)))
    return range(min(most, max(1, blocks - choice))), range(blocks - choice, blocks)


def _batches(blocks: range, length: int) -> Iterator[slice]:
    step = max(1, JACOBIAN_TOKENS // length)
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
    unknowns = len(features.bias)
    sums = [LeastSquares.empty(unknowns, 1, captured.attn_input.device) for _ in range(mixer.num_heads)]
    for rows in _batches(blocks, captured.attn_input.shape[1]):
        x = captured.attn_input[rows]
        inputs, feature = recurrence_inputs(mixer, captured, rows), features.of(x)
        gated, factor = before_gate(mixer, inputs)
        gate_scale, context = gate.gate_scale(x), context_by_head(captured, rows, mixer.head_dim)
        missing = context - gate_scale[..., None] * gated
        for head, regression in enumerate(sums):
            one_head = RecurrenceInputs(*(part[:, :, head : head + 1] for part in inputs))
            # The output is linear in q: with the output gate on q, its derivative comes gated.
            one_head = one_head._replace(q=one_head.q * gate_scale[:, :, head, None, None])
            # Of a block longer than JACOBIAN_TOKENS, some features at a time.
            groups = min(unknowns, -(-feature.shape[:2].numel() // JACOBIAN_TOKENS))
            parts = [jacobian(f, one_head, head) for f in feature.tensor_split(groups, -1)]
            derivative = parts[0] if groups == 1 else torch.cat(parts, -1)
            about = derivative, gated[:, :, head], factor[:, :, head], missing[:, :, head]
            for tokens in zip(*(part.split(JACOBIAN_TOKENS, dim=1) for part in about), strict=True):
                _add(regression, *tokens, normed=mixer.o_norm is not None)
    start = torch.zeros(unknowns, 1, device=captured.attn_input.device)
    # A token gives V rows.
    solved = [regression.solve(prior=start, prior_tokens=PRIOR_TOKENS * mixer.head_dim) for regression in sums]
    return torch.stack(solved)[..., 0].float()


def _add(
    regression: LeastSquares,
    derivative: Tensor,
    gated: Tensor,
    factor: Tensor,
    missing: Tensor,
    *,
    normed: bool,
) -> None:
    """Adds tokens of one head: derivative `[B, T, V, R]`, gated and missing `[B, T, V]`, factor `[B, T]`."""
    if normed:
        derivative = normed_derivative(derivative, gated, factor)
    regression.add(derivative, missing[..., None])


def normed_derivative(derivative: Tensor, normed: Tensor, factor: Tensor) -> Tensor:
    """Derivative of n = f o with f = 1 / rms(o), from that of o: dn = f (do - n <n, do> / V).

    derivative `[B, T, V, R]`, normed `[B, T, V]`, factor `[B, T]`.
    """
    along = (normed[..., None] * derivative).mean(2, keepdim=True)
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
    for rows in _batches(blocks, captured.attn_input.shape[1]):
        x, context = captured.attn_input[rows], context_by_head(captured, rows, mixer.head_dim)
        inputs, feature = recurrence_inputs(mixer, captured, rows), features.of(x)
        gate_scale = gate.gate_scale(x)[..., None]
        for total, trial in zip(totals, trials, strict=True):
            gated = before_gate(mixer, changed(x, inputs, feature @ trial.T))[0] * gate_scale
            total += (context - gated).square().sum((0, 1, 3))
    return totals
