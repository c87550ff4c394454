# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Features of the layer's input: a constant and white leading directions."""

import pytest
import torch
from planted import captured_layer, random_blocks, tiny_teacher

from hf_tc.calibration.input_features import input_features, principal_features


def test_features_are_white_and_the_first_is_constant() -> None:
    captured = captured_layer(tiny_teacher(), random_blocks(6, 100))
    features = input_features(captured, range(1, 5)).of(captured.attn_input[1:5]).flatten(0, 1).double()
    assert features.shape == (400, 33)
    torch.testing.assert_close(features[:, 0], torch.ones(400).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.T @ features / 400, torch.eye(33).double(), atol=1e-3, rtol=0)


def test_leading_directions_are_taken() -> None:
    covariance = torch.diag(torch.tensor([0.01, 9.0, 1.0, 4.0]).double())
    features = principal_features(torch.tensor([1.0, 2.0, 3.0, 4.0]), covariance, rank=2)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.diag(torch.tensor([7.0, 3.0, 7.0, 2.0]))
    expected = torch.tensor([[1.0, 0, 0], [1, 0, 1], [1, 0, 0], [1, 1, 0]])
    torch.testing.assert_close(features.of(x).abs(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("variances", "left"), [([4.0, 1.0, 0.0], 3), ([0.0, 0.0, 0.0], 1), ([1.0, 1e-9, 1e-9], 2)])
def test_directions_without_variance_are_left_out(variances: list[float], left: int) -> None:
    features = principal_features(torch.ones(3), torch.diag(torch.tensor(variances)))
    assert len(features.weight) == len(features.bias) == left
    assert bool(features.of(torch.randn(5, 3)).isfinite().all())
