# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The search finds the half-life and the write gate that made the data."""

import pytest
import torch
import torch.nn.functional as F

from hf_tc.calibration.decay import half_life_candidates, log_decay_of
from hf_tc.calibration.half_life_search import output_residual, search_memory
from hf_tc.calibration.write_gate import BETA_CANDIDATES
from hf_tc.modeling.gated_delta_rule import recurrent_gated_delta_rule

HEADS = 5


@pytest.mark.parametrize("seed", [0, 1])
def test_half_life_and_beta_are_found_again(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = (F.normalize(torch.randn(2, 150, HEADS, 8, generator=generator), dim=-1) for _ in "qk")
    v = torch.randn(2, 150, HEADS, 8, generator=generator)
    distance = torch.tensor([4.0, 9.0, 15.0, 20.0, 6.0])
    candidates = half_life_candidates(distance)
    chosen = torch.randint(len(candidates), (HEADS,), generator=generator)
    half_life = candidates.gather(0, chosen[None])[0]
    beta = torch.tensor(BETA_CANDIDATES)[torch.randint(len(BETA_CANDIDATES), (HEADS,), generator=generator)]
    shape = q.shape[:3]
    recurrence_output, _ = recurrent_gated_delta_rule(
        q=q, k=k, v=v, log_decay=log_decay_of(half_life).expand(shape), beta=beta.expand(shape)
    )
    context = (
        recurrence_output * torch.tensor([1.0, 5.0, 0.1, 3.0, 1.0])[:, None]
    )  # the scale of a head does not matter
    for at_once in (1, 7):
        found = search_memory(
            q=q, k=k, v=v, context=context, half_lives=candidates, betas=BETA_CANDIDATES, at_once=at_once
        )
        torch.testing.assert_close(found[0], half_life)
        torch.testing.assert_close(found[1], beta)


def test_residual_is_the_share_no_scale_can_give() -> None:
    recurrence_output, context = torch.randn(2, 2, 30, 3, 4, generator=torch.Generator().manual_seed(0))
    normed = recurrence_output / recurrence_output.square().mean(-1, keepdim=True).sqrt()
    for head in range(3):
        n, c = normed[:, :, head].flatten()[:, None], context[:, :, head].flatten()[:, None]
        scale = torch.linalg.lstsq(n, c).solution
        expected = ((c - n * scale).square().sum() / c.square().sum()).item()
        assert output_residual(recurrence_output, context)[head].item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(
        output_residual(recurrence_output, -7 * normed), torch.zeros(3).double(), atol=1e-6, rtol=0
    )


def test_silent_heads_have_a_finite_residual() -> None:
    zero = torch.zeros(1, 4, 2, 3)
    assert bool(output_residual(zero, zero).isfinite().all())
    assert bool(output_residual(zero, torch.ones_like(zero)).isfinite().all())
