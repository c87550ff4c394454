# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""16-bit linear layers with float32 output, and what that does for the gradients of a student near its teacher."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_tc.evaluation import float32_linear
from hf_tc.evaluation.chunked_objective import chunked_objective
from hf_tc.evaluation.float32_linear import Float32Linear
from hf_tc.evaluation.kd_loss import LazyLogits, Objective


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("by_autocast", [False, True])
def test_output_and_gradients_are_not_rounded_on_the_way(
    dtype: torch.dtype, by_autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float32_linear, "UPCAST_AT_ONCE", 40)  # several pieces of the weight
    torch.manual_seed(0)
    layer = nn.Linear(12, 30).to(dtype)
    inputs, weights = torch.randn(2, 5, 12, dtype=dtype, requires_grad=True), torch.randn(2, 5, 30)
    exact_inputs, exact = inputs.detach().double().requires_grad_(), nn.Linear(12, 30).double()
    exact.load_state_dict(layer.state_dict())
    if by_autocast:
        layer.float()
    with Float32Linear(), torch.autocast("cpu", dtype, enabled=by_autocast):
        output = layer(inputs)
        named = F.linear(input=inputs, weight=layer.weight, bias=layer.bias)
    assert output.dtype == torch.float32
    assert torch.equal(output, named)
    expected = exact(exact_inputs)
    assert relative_error(output, expected) < 1e-6
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    rounding = torch.finfo(dtype).eps / 2
    assert relative_error(inputs.grad, exact_inputs.grad) < rounding
    assert relative_error(layer.weight.grad, exact.weight.grad) < (1e-6 if by_autocast else rounding)
    assert relative_error(layer.bias.grad, exact.bias.grad) < (1e-6 if by_autocast else rounding)


def test_it_sees_linear_layers_where_zero3_has_replaced_their_function(monkeypatch: pytest.MonkeyPatch) -> None:
    def replacement(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return input.matmul(weight.t()) + bias

    layer, inputs = nn.Linear(12, 30).bfloat16(), torch.randn(5, 12, dtype=torch.bfloat16)
    monkeypatch.setattr(F, "linear", replacement)
    with Float32Linear():
        assert layer(inputs).dtype == torch.float32
    assert F.linear is replacement


def test_float32_layers_are_left_alone() -> None:
    layer, inputs = nn.Linear(12, 30), torch.randn(5, 12)
    with Float32Linear():
        output = layer(inputs)
    assert torch.equal(output, layer(inputs))


def heads_close_together(dtype: torch.dtype) -> list[Tensor]:
    """Hidden states [N, C] and head weights [V, C] of a student and of a teacher near it: KL is about 0.06 nats."""
    torch.manual_seed(0)
    hidden, noise = torch.randn(128, 64), torch.randn(128, 64)
    weight, change = 0.3 * torch.randn(30_000, 64), torch.randn(30_000, 64)
    return [x.to(dtype) for x in (hidden, weight, hidden + 0.1 * noise, weight + 0.03 * change)]


@pytest.mark.parametrize(("temperature", "chunk"), [(1.0, 32), (2.0, 128)])
def test_bf16_gradients_near_the_teacher_are_within_three_thousandths(temperature: float, chunk: int) -> None:
    hidden, weight, taught, teacher_weight = heads_close_together(torch.bfloat16)
    exact_hidden, exact_weight = (x.double().requires_grad_() for x in (hidden, weight))
    ours, theirs = (
        exact_hidden @ exact_weight.T / temperature,
        taught.double() @ teacher_weight.double().T / temperature,
    )
    naive = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="sum", log_target=True) * temperature**2
    expected = torch.autograd.grad(naive / 3, [exact_hidden, exact_weight])

    def head(weight: Tensor, x: Tensor) -> Tensor:
        with Float32Linear():
            return F.linear(x, weight)

    hidden.requires_grad_()
    weight.requires_grad_()
    student = LazyLogits(lambda x: head(weight, x), hidden[None], (weight,))
    teacher = LazyLogits(lambda x: head(teacher_weight, x), taught[None], ())
    loss = chunked_objective(student, teacher, None, Objective(temperature), chunk_tokens=chunk)
    assert loss.item() == pytest.approx(naive.item(), rel=1e-4)
    for actual, wanted in zip(torch.autograd.grad(loss / 3, [hidden, weight]), expected, strict=True):
        assert relative_error(actual, wanted) < 3e-3
