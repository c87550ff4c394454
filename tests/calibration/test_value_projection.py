# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Value projection: planted values are found again, whatever the sharing of heads, the bias or the gate."""

import copy

import pytest
import torch
from planted import output_of, planted_mixer, relative, with_context
from tiny_sizes import HEADS

from hf_tc.calibration import value_projection
from hf_tc.calibration.activation_range import solve_activation_range
from hf_tc.calibration.output_gate import OutputGate
from hf_tc.calibration.ridge import LeastSquares
from hf_tc.calibration.solve_order import apply
from hf_tc.calibration.value_projection import share_scale


def gate_of(scale: torch.Tensor) -> OutputGate:
    """A gate that swings with the input."""
    weight = 0.1 * torch.randn(HEADS, 32, generator=torch.Generator().manual_seed(4))
    return OutputGate(weight, torch.full((HEADS,), 4.0), scale)


@pytest.mark.skipif(not hasattr(value_projection, "solve_value_projection"), reason="values are solved elsewhere")
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 4}),
        ("llama", {"attention_bias": True}),
        ("llama", {"output_norm": True}),
        ("qwen2", {}),
        ("qwen3", {"num_key_value_heads": 1}),
    ],
)
def test_planted_values_are_found(family: str, changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LeastSquares.solve.__kwdefaults__, "prior_tokens", 1e-6)
    mixer, captured = planted_mixer(family, **changes)
    truth = copy.deepcopy(mixer)
    generator = torch.Generator().manual_seed(3)
    for parameter in truth.v_proj.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    gate = gate_of(torch.tensor([1.0, 0.3, 2.0, 1.0]))
    gate_scale = gate.gate_scale(captured.attn_input)[..., None]
    if mixer.o_norm is not None:  # what the norm divides by is held where it is
        gate_scale = gate_scale / (output_of(mixer, captured).square().mean(-1, keepdim=True) + mixer.o_norm.eps).sqrt()
    target = with_context(captured, output_of(truth, captured) * gate_scale)
    before = {name: value.clone() for name, value in mixer.state_dict().items()}
    solved = value_projection.solve_value_projection(mixer, target, gate)
    assert all(torch.equal(value, before[name]) for name, value in mixer.state_dict().items())
    assert solved.keys() == {f"v_proj.{name}" for name, _ in truth.v_proj.named_parameters()}
    assert relative(solved["v_proj.weight"], truth.v_proj.weight) < 2e-3
    apply(mixer, solved)
    assert relative(output_of(mixer, captured), output_of(truth, captured)) < 1e-3


def test_planted_values_are_found_through_an_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to what bends: the smaller the values are where SiLU takes them, the nearer."""
    monkeypatch.setitem(LeastSquares.solve.__kwdefaults__, "prior_tokens", 1e-6)
    mixer, captured = planted_mixer("llama", recurrent_rope=False, conv_activation="silu")
    planted, gate, errors = (
        torch.randn(16, 32, generator=torch.Generator().manual_seed(3)),
        gate_of(torch.ones(HEADS)),
        [],
    )
    for size in (0.2, 0.02):
        truth = copy.deepcopy(mixer)
        truth.v_proj.weight.copy_(planted)
        apply(truth, solve_activation_range(truth, captured, size))
        trial = copy.deepcopy(truth)
        trial.v_proj.weight.copy_(mixer.v_proj.weight)
        context = output_of(truth, captured) * gate.gate_scale(captured.attn_input)[..., None]
        solved = value_projection.solve_value_projection(trial, with_context(captured, context), gate)
        errors.append(relative(solved["v_proj.weight"], planted))
    assert errors[0] < 0.2
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.skipif(not hasattr(value_projection, "solve_value_projection"), reason="values are solved elsewhere")
def test_strong_prior_keeps_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LeastSquares.solve.__kwdefaults__, "prior_tokens", 1e9)
    mixer, captured = planted_mixer("qwen2")
    solved = value_projection.solve_value_projection(mixer, captured, gate_of(torch.ones(HEADS)))
    for name, value in solved.items():
        torch.testing.assert_close(value, mixer.get_parameter(name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_shared_scale_moves_into_the_values_without_changing_the_output(family: str) -> None:
    mixer, captured = planted_mixer(family)
    scale = torch.tensor([1.0, 4.0, 0.5, 0.5])
    wanted = output_of(mixer, captured) * scale[:, None]
    values, left = share_scale(mixer, scale)
    torch.testing.assert_close(left, torch.tensor([0.5, 2.0, 1.0, 1.0]))
    apply(mixer, values)
    assert relative(output_of(mixer, captured) * left[:, None], wanted) < 1e-5


def test_norm_after_the_recurrence_would_undo_a_shared_scale() -> None:
    mixer, _ = planted_mixer(output_norm=True)
    scale = torch.tensor([1.0, 4.0, 0.5, 0.5])
    values, left = share_scale(mixer, scale)
    assert values == {}
    torch.testing.assert_close(left, scale)
