# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The KL below a frozen head: against the plain loss, in value and gradient, whatever the chunks."""

import pytest
import torch

from hf_tc.evaluation.frozen_head_kl import frozen_head_kl
from hf_tc.evaluation.kd_loss import LazyLogits, forward_kl


@pytest.mark.parametrize("chunk", [1, 5, 14, 100])
def test_value_and_gradient_are_those_of_the_plain_loss(chunk: int) -> None:
    torch.manual_seed(0)
    hidden, taught = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 7, 4).double()
    weight, teacher_weight = torch.randn(11, 3).double(), torch.randn(11, 4).double()
    loss = frozen_head_kl(
        LazyLogits(lambda x: x @ weight.T, hidden), LazyLogits(lambda x: x @ teacher_weight.T, taught), chunk
    )
    (gradient,) = torch.autograd.grad(3 * loss, hidden)
    plain = forward_kl((hidden @ weight.T).flatten(0, 1), (taught @ teacher_weight.T).flatten(0, 1)).mean()
    (expected,) = torch.autograd.grad(3 * plain, hidden)
    torch.testing.assert_close(loss, plain, check_dtype=False)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
