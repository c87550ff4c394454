# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The search finds the half-life and the write gate that made the data."""

import pytest
import torch
import torch.nn.functional as F

from hf_tc.calibration.decay import half_life_candidates, log_decay_of
from hf_tc.calibration.half_life_search import output_residuals, search_memory
from hf_tc.calibration.write_gate import BETA_CANDIDATES
from hf_tc.modeling.gated_delta_rule import recurrent_gated_delta_rule

HEADS = 5


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_half_life_beta_and_sign_are_found_again_whatever_the_size_of_a_token(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = (F.normalize(torch.randn(2, 150, HEADS, 8, generator=generator), dim=-1) for _ in "qk")
    v = torch.randn(2, 150, HEADS, 8, generator=generator)
    distance = torch.tensor([160.0, 360.0, 250.0, 200.0, 300.0])
    candidates = half_life_candidates(distance)[:6]  # more than the text is long cannot be told apart
    half_life = candidates.gather(0, torch.randint(len(candidates), (1, HEADS), generator=generator))[0]
    beta = torch.tensor(BETA_CANDIDATES)[torch.randint(len(BETA_CANDIDATES), (HEADS,), generator=generator)]
    sign = torch.tensor([1.0, -1.0])[torch.randint(2, (HEADS,), generator=generator)]
    shape = q.shape[:3]
    recurrence_output, _ = recurrent_gated_delta_rule(
        q=q, k=k, v=v, log_decay=log_decay_of(half_life).expand(shape), beta=beta.expand(shape)
    )
    size = torch.randn(*shape, 1, generator=generator).exp()  # of which a sink takes more or less
    context = recurrence_output * size * sign[:, None]
    for at_once in (1, 7):
        found = search_memory(
            q=q, k=k, v=v, context=context, half_lives=candidates, betas=BETA_CANDIDATES, at_once=at_once
        )
        torch.testing.assert_close(found.half_life, half_life)
        torch.testing.assert_close(found.beta, beta)
        assert torch.equal(found.sign, sign)


def test_signs_and_candidates_that_are_not_asked_for_are_not_given() -> None:
    q, k, v = (torch.randn(1, 20, 2, 4, generator=torch.Generator().manual_seed(0)) for _ in "qkv")
    half_lives = torch.tensor([[3.0, 7.0]])
    found = search_memory(
        q=F.normalize(q, dim=-1), k=F.normalize(k, dim=-1), v=v, context=-v, half_lives=half_lives, betas=(0.5,),
        signs=(1.0,),
    )  # fmt: skip
    assert torch.equal(torch.stack(found), torch.tensor([[3.0, 7.0], [0.5, 0.5], [1.0, 1.0]]))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_residual_is_the_share_no_positive_size_can_give(sign: float) -> None:
    recurrence_output, context = torch.randn(2, 2, 30, 3, 4, generator=torch.Generator().manual_seed(0))
    size = ((sign * recurrence_output * context).sum(-1) / recurrence_output.square().sum(-1)).clamp_min(0)
    left = context - sign * size[..., None] * recurrence_output
    expected = left.square().sum((0, 1, 3)) / context.square().sum((0, 1, 3))
    torch.testing.assert_close(
        output_residuals(recurrence_output, context, (-sign, sign))[1].float(), expected, rtol=1e-4, atol=1e-5
    )
    positive = recurrence_output.square().sum(-1, keepdim=True)
    for way, residual in ((1.0, 0.0), (-1.0, 1.0)):
        found = output_residuals(recurrence_output, way * sign * positive * recurrence_output, (sign,))[0]
        torch.testing.assert_close(found, torch.full((3,), residual).double(), atol=1e-6, rtol=0)


def test_silent_heads_have_a_finite_residual() -> None:
    zero = torch.zeros(1, 4, 2, 3)
    assert bool(output_residuals(zero, zero).isfinite().all())
    assert bool(output_residuals(zero, torch.ones_like(zero)).isfinite().all())
