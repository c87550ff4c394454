# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Write gate and decay as functions of the token: exact derivatives, planted responses found, bad steps dropped."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from planted import output_of, planted_mixer, relative, with_context
from tiny_sizes import HEADS
from torch import Tensor

from hf_tc.calibration import gauss_newton, token_decay, token_write_gate
from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.constant_direction import constant_direction
from hf_tc.calibration.gauss_newton import features_to_fit, gauss_newton_step, normed_derivative
from hf_tc.calibration.output_gate import OutputGate, solve_output_gate
from hf_tc.calibration.solve_order import apply
from hf_tc.calibration.token_decay import decay_jacobian, decay_slope, solve_token_decay
from hf_tc.calibration.token_write_gate import solve_token_write_gate, write_gate_jacobian
from hf_tc.modeling.gated_delta_rule import recurrent_gated_delta_rule
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.recurrence_inputs import RecurrenceInputs

GATE_SCALES = torch.tensor([1.0, 0.3, 2.0, 1.0])
SOLVERS = {
    kind: lambda mixer, captured, gate, solver=solver: solver(mixer, captured, gate, features_to_fit(captured))
    for kind, solver in (("write gate", solve_token_write_gate), ("decay", solve_token_decay))
}
WEIGHTS = {"write gate": ("b_proj.weight", "b_proj.bias"), "decay": ("a_proj.weight", "dt_bias")}


def one_head(length: int, half_life: float) -> tuple[RecurrenceInputs, Tensor, Tensor, Tensor, Tensor]:
    """Float64 inputs of one head with unit keys, features, logits of beta, and the decay's z and A_log."""
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, length, 1, 6, generator=generator, dtype=torch.float64) for _ in "qkv")
    features = torch.randn(2, length, 5, generator=generator, dtype=torch.float64)
    logits, z = torch.randn(2, 2, length, 1, generator=generator, dtype=torch.float64)
    A_log, z = torch.tensor([0.3]).double(), z * 0.5 + torch.tensor(0.7 / half_life).double().expm1().log()
    decay = -A_log.exp() * F.softplus(z)
    inputs = RecurrenceInputs(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, decay, logits.sigmoid())
    return inputs, features, logits, z, A_log


def differences(recurrence_output: Callable[[Tensor], Tensor], unknowns: int) -> Tensor:
    """Central differences of `[B, T, 1, V]` by each unknown, `[B, T, 1, V, R]`."""
    steps = 1e-5 * torch.eye(unknowns, dtype=torch.float64)
    ends = [(recurrence_output(step) - recurrence_output(-step)) / 2e-5 for step in steps]
    return torch.stack(ends, dim=-1)


@pytest.mark.parametrize("length", [1, 64, 90])
def test_write_gate_jacobian_is_the_derivative(length: int) -> None:
    inputs, features, logits, _, _ = one_head(length, 20.0)

    def recurrence_output(w: Tensor) -> Tensor:
        beta = (logits + (features @ w)[..., None]).sigmoid()
        return recurrent_gated_delta_rule(**inputs._replace(beta=beta)._asdict())[0]

    jacobian = write_gate_jacobian(features, inputs)
    torch.testing.assert_close(jacobian, differences(recurrence_output, 5), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("length", "half_life"), [(1, 20.0), (64, 2.0), (90, 20.0), (130, 300.0)])
def test_decay_jacobian_is_the_derivative(length: int, half_life: float) -> None:
    inputs, features, _, z, A_log = one_head(length, half_life)

    def recurrence_output(w: Tensor) -> Tensor:
        decay = -A_log.exp() * F.softplus(z + (features @ w)[..., None])
        return recurrent_gated_delta_rule(**inputs._replace(log_decay=decay)._asdict())[0]

    slope = decay_slope(inputs.log_decay, A_log)
    torch.testing.assert_close(slope, -A_log.exp() * z.sigmoid(), rtol=1e-9, atol=0)
    jacobian = decay_jacobian(features, inputs, slope)
    torch.testing.assert_close(jacobian, differences(recurrence_output, 5), rtol=1e-5, atol=1e-8)


def test_normed_derivative_is_the_derivative_of_the_norm() -> None:
    recurrence_output, direction = torch.randn(
        2, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    factor = torch.rsqrt(recurrence_output.square().mean(-1) + 1e-5)
    normed = normed_derivative(direction[..., None], recurrence_output * factor[..., None], factor)[..., 0]
    ends = (recurrence_output + sign * 1e-6 * direction for sign in (1, -1))
    after, before = (end * torch.rsqrt(end.square().mean(-1, keepdim=True) + 1e-5) for end in ends)
    torch.testing.assert_close(normed, (after - before) / 2e-6, rtol=1e-6, atol=1e-8)


def constant_gate() -> OutputGate:
    gate = OutputGate(torch.zeros(HEADS, 32), torch.full((HEADS,), 4.0), torch.ones(HEADS))
    return gate._replace(scale=GATE_SCALES / gate.gate_scale(torch.zeros(1, 1, 32))[0, 0])


def planted_response(kind: str, swing: float, **changes) -> tuple[GatedDeltaNet, GatedDeltaNet, CapturedAttention]:
    """A mixer, the same with a gate that swings with the token, and the context that the other one gives."""
    mixer, captured = planted_mixer(**changes)
    mixer.A_log.copy_(torch.tensor([0.0, 0.5, -0.5, 0.2]))
    truth, generator = copy.deepcopy(mixer), torch.Generator().manual_seed(1)
    x = captured.attn_input.flatten(0, 1)
    direction = torch.randn(HEADS, x.shape[1], generator=generator)
    weight, bias = (truth.get_parameter(name) for name in WEIGHTS[kind])
    weight.copy_(swing * direction / (x @ direction.T).std(0)[:, None])
    bias.add_(swing * torch.randn(HEADS, generator=generator))
    context = output_of(truth, captured)
    if mixer.o_norm is not None:
        context = mixer.o_norm(context)
    return mixer, truth, with_context(captured, GATE_SCALES[:, None] * context)


@pytest.mark.parametrize("output_norm", [False, True])
@pytest.mark.parametrize("kind", SOLVERS)
def test_planted_response_is_found(kind: str, output_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one by one step, up to its curvature; repeated steps come to it exactly. No weight of the mixer moves."""
    monkeypatch.setattr(gauss_newton, "PRIOR_TOKENS", 1e-6)
    mixer, truth, captured = planted_response(kind, 0.05, output_norm=output_norm)
    before = {name: value.clone() for name, value in mixer.state_dict().items()}
    solved = SOLVERS[kind](mixer, captured, constant_gate())
    assert all(torch.equal(value, before[name]) for name, value in mixer.state_dict().items())
    assert tuple(solved) == WEIGHTS[kind]
    if not output_norm:
        for name, value in solved.items():
            planted = truth.get_parameter(name) - before[name]
            assert relative(value - before[name], planted) < 0.2, name
    start = relative(output_of(mixer, captured), output_of(truth, captured))
    for _ in range(6):
        apply(mixer, SOLVERS[kind](mixer, captured, constant_gate()))
    end = relative(output_of(mixer, captured), output_of(truth, captured))
    assert end < 0.02 * start
    if not output_norm:  # a size that the norm takes out again need not be found
        for name in WEIGHTS[kind]:
            planted = truth.get_parameter(name) - before[name]
            assert relative(mixer.get_parameter(name) - before[name], planted) < 0.05, name


@pytest.mark.parametrize("kind", SOLVERS)
def test_large_response_is_approached_without_overshooting(kind: str) -> None:
    mixer, truth, captured = planted_response(kind, 1.5)
    errors = [relative(output_of(mixer, captured), output_of(truth, captured))]
    for _ in range(4):
        apply(mixer, SOLVERS[kind](mixer, captured, constant_gate()))
        errors.append(relative(output_of(mixer, captured), output_of(truth, captured)))
    assert all(after < before for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.6 * errors[0]


@pytest.mark.parametrize(("factor", "length"), [(1.0, 1.0), (0.5, 0.5), (0.25, 0.25), (-1.0, 0.0)])
def test_step_is_shortened_or_dropped_as_the_true_residual_says(
    factor: float, length: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A derivative that is wrong by a factor gives a step that is wrong by its inverse."""
    monkeypatch.setattr(gauss_newton, "PRIOR_TOKENS", 1e-6)
    mixer, _, captured = planted_response("write gate", 0.02)

    def changed(x: Tensor, inputs: RecurrenceInputs, change: Tensor) -> RecurrenceInputs:
        return inputs._replace(beta=torch.sigmoid(mixer.b_proj(x) + change))

    steps = [
        gauss_newton_step(
            mixer,
            captured,
            constant_gate(),
            features_to_fit(captured),
            jacobian=lambda f, inputs, heads, wrong=wrong: wrong * write_gate_jacobian(f, inputs),
            changed=changed,
        )[0]
        for wrong in (1.0, factor)
    ]
    torch.testing.assert_close(steps[1], steps[0] * length / factor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", SOLVERS)
def test_strong_prior_keeps_the_gates(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauss_newton, "PRIOR_TOKENS", 1e12)
    mixer, _, captured = planted_response(kind, 0.5)
    for name, value in SOLVERS[kind](mixer, captured, constant_gate()).items():
        torch.testing.assert_close(value, mixer.get_parameter(name), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", SOLVERS)
def test_silent_teacher_gives_finite_gates(kind: str) -> None:
    mixer, _, captured = planted_response(kind, 0.5)
    silent = with_context(captured, torch.zeros_like(output_of(mixer, captured)))
    solved = SOLVERS[kind](mixer, silent, solve_output_gate(mixer, silent))
    assert all(bool(value.isfinite().all()) for value in solved.values())


@pytest.mark.parametrize("tokens", [200, 30])  # two blocks at a time; parts of a block
@pytest.mark.parametrize("module", [token_write_gate, token_decay])
def test_batches_of_blocks_make_one_problem(module, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "decay" if module is token_decay else "write gate"
    mixer, _, captured = planted_response(kind, 0.3)
    whole = SOLVERS[kind](mixer, captured, constant_gate())
    monkeypatch.setattr(gauss_newton, "JACOBIAN_TOKENS", tokens)
    parts = SOLVERS[kind](mixer, captured, constant_gate())
    for name in WEIGHTS[kind]:
        assert relative(parts[name], whole[name]) < 1e-3
        assert relative(whole[name], mixer.get_parameter(name)) > 1e-2


@pytest.mark.parametrize("output_norm", [False, True])
@pytest.mark.parametrize("kind", SOLVERS)
def test_heads_are_solved_together_as_one_by_one(kind: str, output_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mixer, _, captured = planted_response(kind, 0.3, output_norm=output_norm)
    alone = SOLVERS[kind](mixer, captured, constant_gate())
    monkeypatch.setattr(gauss_newton, "_heads_at_once", lambda *_: [slice(0, 3), slice(3, HEADS)])
    together = SOLVERS[kind](mixer, captured, constant_gate())
    for name in WEIGHTS[kind]:
        assert relative(together[name], alone[name]) < 1e-5
        assert relative(together[name], mixer.get_parameter(name)) > 1e-2


def test_blocks_of_the_step_and_of_its_length() -> None:
    """Fitted to the first blocks, chosen by others, neither by more than FIT_TOKENS; one block serves for both."""
    split = gauss_newton._blocks_to_fit_and_to_choose
    assert split(1, 100) == (range(1), range(1))
    assert split(2, 100) == (range(1), range(1, 2))
    assert split(8, 1024) == (range(6), range(6, 8))
    assert split(64, 1024) == (range(8), range(56, 64))
    assert split(3, 99_999) == (range(1), range(2, 3))


@pytest.mark.parametrize("kind", SOLVERS)
def test_one_block_is_enough(kind: str) -> None:
    mixer, _, captured = planted_response(kind, 0.5)
    parts = {name: getattr(captured, name)[:1] for name in ("attn_input", "teacher_context", "teacher_output")}
    solved = SOLVERS[kind](mixer, replace(captured, **parts), constant_gate())
    assert all(bool(value.isfinite().all()) for value in solved.values())


def test_planted_response_of_a_write_gate_without_bias_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that need no bias are enough for a weight that has none; only the weight is answered."""
    monkeypatch.setattr(gauss_newton, "PRIOR_TOKENS", 1e-6)
    mixer, captured = planted_mixer(recurrent_bias=False)
    truth, generator = copy.deepcopy(mixer), torch.Generator().manual_seed(1)
    x = captured.attn_input.flatten(0, 1)
    direction = torch.randn(HEADS, x.shape[1], generator=generator)
    truth.b_proj.weight.copy_(0.05 * direction / (x @ direction.T).std(0)[:, None])
    planted = with_context(captured, GATE_SCALES[:, None] * output_of(truth, captured))
    features = features_to_fit(captured).without_bias(constant_direction(captured))
    start = relative(output_of(mixer, captured), output_of(truth, captured))
    for _ in range(6):
        solved = solve_token_write_gate(mixer, planted, constant_gate(), features)
        assert solved.keys() == {"b_proj.weight"}
        apply(mixer, solved)
    assert relative(output_of(mixer, captured), output_of(truth, captured)) < 0.1 * start
