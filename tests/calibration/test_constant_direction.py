# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A bias as part of a weight: exact where the input has a constant direction, the least-squares answer where not."""

from dataclasses import replace

import pytest
import torch
from planted import captured_layer, random_blocks, relative, tiny_teacher
from torch import Tensor
from torch.nn import functional as F

from hf_tc.calibration import constant_direction as module
from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.constant_direction import constant_direction, folded_bias
from hf_tc.calibration.input_features import InputFeatures


def captured_with(attn_input: Tensor) -> CapturedAttention:
    return replace(captured_layer(tiny_teacher(), random_blocks(2, 20)), attn_input=attn_input)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_constant_direction_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that all have the same component along one direction: their bias is no approximation."""
    monkeypatch.setattr(module, "PRIOR_TOKENS", 1e-9)
    direction = F.normalize(draw(32), dim=0)
    x = draw(6, 100, 32)
    x = x + (2.0 - x @ direction)[..., None] * direction
    constant = constant_direction(captured_with(x))
    torch.testing.assert_close(x @ constant, torch.ones(6, 100), rtol=1e-4, atol=1e-4)
    weight, bias = draw(5, 32), draw(5)
    torch.testing.assert_close(
        x @ folded_bias(weight, bias, constant).T, F.linear(x, weight, bias), rtol=1e-3, atol=1e-3
    )
    features = InputFeatures(weight, bias)
    without = features.without_bias(constant)
    assert not without.bias.any()
    torch.testing.assert_close(without.of(x), features.of(x), rtol=1e-3, atol=1e-3)


def test_without_one_it_is_the_least_squares_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRIOR_TOKENS", 1e-9)
    x = 0.5 + draw(6, 100, 32)
    rows = x.flatten(0, 1).double()
    expected = torch.linalg.lstsq(rows, torch.ones(600, 1, dtype=torch.float64)).solution[:, 0]
    assert relative(constant_direction(captured_with(x)).double(), expected) < 1e-4


def test_inputs_that_are_zero_give_a_finite_answer() -> None:
    assert not constant_direction(captured_with(torch.zeros(2, 20, 32))).isnan().any()
