# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Output gate: the regressed scale is the planted one, and the gate in the mixer gives it."""

import pytest
import torch
from planted import output_of, planted_mixer, relative, with_context
from tiny_sizes import HEAD_DIM, HEADS

from hf_tc.calibration.output_gate import (
    OutputGate,
    gate_from_regression,
    solve_constant_gate,
    solve_output_gate,
    wanted_scale,
)
from hf_tc.calibration.output_projection import scaled_output_projection
from hf_tc.calibration.recurrence_outputs import before_gate, recurrence_inputs
from hf_tc.calibration.ridge import LeastSquares
from hf_tc.modeling.masks import RecurrentMask

SIZES = torch.tensor([1.0, 0.01, 40.0, 3.0])


def planted_scale(x: torch.Tensor, swing: float) -> torch.Tensor:
    """[N, T, H]: of other size in each head, swinging by the given share of it with the input."""
    direction = torch.randn(HEADS, x.shape[-1], generator=torch.Generator().manual_seed(5))
    swings = x @ direction.T
    return SIZES * (1 + swing * swings / swings.abs().amax((0, 1)))


@pytest.mark.parametrize("output_norm", [False, True])
def test_planted_gate_is_found(output_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LeastSquares.solve.__kwdefaults__, "prior_tokens", 1e-6)
    mixer, captured = planted_mixer(output_norm=output_norm)
    scale = planted_scale(captured.attn_input, 0.1)
    gated = before_gate(mixer, recurrence_inputs(mixer, captured, slice(None)))[0]
    gate = solve_output_gate(mixer, with_context(captured, gated * scale[..., None]))
    gate_scale = gate.gate_scale(captured.attn_input)
    for head in range(HEADS):  # SiLU bends a little around its working point
        assert relative(gate_scale[..., head], scale[..., head]) < 2e-3
        swing = gate_scale[..., head] / SIZES[head] - 1
        assert relative(swing, scale[..., head] / SIZES[head] - 1) < 0.05


def test_constant_scale_gives_a_constant_gate_even_with_the_prior() -> None:
    mixer, captured = planted_mixer()
    context = output_of(mixer, captured) * SIZES[:, None]
    gate = solve_output_gate(mixer, with_context(captured, context))
    expected = SIZES.expand(*captured.attn_input.shape[:2], HEADS)
    torch.testing.assert_close(gate.gate_scale(captured.attn_input), expected, rtol=1e-3, atol=0)


def test_constant_gate_is_the_least_squares_scale_of_each_head() -> None:
    mixer, captured = planted_mixer()
    recurrence_output = output_of(mixer, captured)
    context = recurrence_output * planted_scale(captured.attn_input, 0.5)[..., None]
    gate = solve_constant_gate(mixer, with_context(captured, context))
    assert gate.weight.shape == (HEADS, 32)
    expected = (recurrence_output * context).sum((0, 1, 3)) / recurrence_output.square().sum((0, 1, 3))
    torch.testing.assert_close(
        gate.gate_scale(captured.attn_input), expected.expand(*captured.attn_input.shape[:2], -1), rtol=1e-3, atol=0
    )


def test_silent_teacher_gives_a_finite_gate() -> None:
    mixer, captured = planted_mixer()
    gate = solve_output_gate(mixer, with_context(captured, torch.zeros_like(output_of(mixer, captured))))
    assert all(bool(part.isfinite().all()) for part in gate)
    assert gate.gate_scale(captured.attn_input).abs().max() < 1e-3


def test_wanted_scale_is_the_projection_on_the_output() -> None:
    recurrence_output, context = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[6.0, 8.0], [1.0, 1.0]])
    torch.testing.assert_close(wanted_scale(recurrence_output, context), torch.tensor([2.0, 0.0]))
    across = torch.tensor([[-4.0, 3.0], [0.0, 0.0]])
    torch.testing.assert_close(wanted_scale(recurrence_output, context + across), torch.tensor([2.0, 0.0]))


def test_gate_is_straight_around_its_working_point() -> None:
    """gate_scale(x) has the value and the slope of the regressed scale where the scale is its typical size."""
    size = torch.tensor([0.2, 7.0])
    coefficients = torch.tensor([[0.01, 0.0], [0.0, 2.0]])
    gate = gate_from_regression(coefficients, size, size)
    origin = torch.zeros(1, 1, 2, requires_grad=True)
    gate_scale = gate.gate_scale(origin)
    torch.testing.assert_close(gate_scale[0, 0], size)
    slopes = torch.stack(
        [torch.autograd.grad(gate_scale[0, 0, h], origin, retain_graph=True)[0][0, 0] for h in range(2)]
    )
    torch.testing.assert_close(slopes, coefficients)


@pytest.mark.parametrize("output_norm", [False, True])
def test_gain_is_what_the_mixer_does_with_its_gate_and_its_scaled_output_projection(output_norm: bool) -> None:
    mixer, captured = planted_mixer(output_norm=output_norm)
    generator = torch.Generator().manual_seed(2)
    gate = OutputGate(torch.randn(HEADS, 32, generator=generator), torch.randn(HEADS, generator=generator), SIZES)
    x = captured.attn_input
    recurrence_output = before_gate(mixer, recurrence_inputs(mixer, captured, slice(None)))[0]
    expected = (recurrence_output * gate.gate_scale(x)[..., None]).flatten(2) @ mixer.o_proj.weight.T
    mixer.g_proj.weight.copy_(gate.weight.repeat_interleave(HEAD_DIM, 0))
    mixer.g_proj.bias.copy_(gate.bias.repeat_interleave(HEAD_DIM, 0))
    mixer.o_proj.weight.copy_(scaled_output_projection(mixer.o_proj.weight, gate.scale))
    output = mixer(x, captured.position_embeddings, recurrent_mask=RecurrentMask())[0]
    assert relative(output, expected) < 1e-5


def test_gate_without_a_bias_is_the_one_with_a_bias_where_inputs_have_a_constant_direction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LeastSquares.solve.__kwdefaults__, "prior_tokens", 1e-6)
    mixer, captured = planted_mixer(recurrent_bias=False)
    constant = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(2)), dim=0)
    x = captured.attn_input
    captured.attn_input = x + (1.0 - x @ constant)[..., None] * constant
    scale = planted_scale(captured.attn_input, 0.1)
    planted = with_context(captured, output_of(mixer, captured) * scale[..., None])
    for solve_gate in (solve_output_gate, solve_constant_gate):
        with_bias, without = solve_gate(mixer, planted), solve_gate(mixer, planted, constant)
        assert not without.bias.any()
        inputs = captured.attn_input
        torch.testing.assert_close(without.gate_scale(inputs), with_bias.gate_scale(inputs), rtol=1e-2, atol=0)
