# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A teacher known by its likeliest tokens and the mass of the others, against the textbook formula in float64."""

from __future__ import annotations

import pytest
import torch
from loss_cases import VOCABULARY, case, slow_divergence
from torch import Tensor

from hf_tc.evaluation.chunked_objective import chunked_objective
from hf_tc.evaluation.kd_loss import Divergence, LazyLogits, Objective, chunked_metrics, forward_kl
from hf_tc.evaluation.top_k import TopK


def known_of(logits: Tensor, k: int, targets: Tensor) -> TopK:
    """Computed in float64, and kept as a cache keeps it."""
    log_probs = logits.double().log_softmax(-1)
    top = log_probs.topk(k)
    rest = log_probs.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
    of_target = log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return TopK(top.indices.int(), top.values.float(), rest.float(), of_target.float())


def slow_outcomes(probabilities: Tensor, ids: Tensor) -> Tensor:
    """The probabilities of the tokens, and of all others together, [..., k + 1]."""
    chosen = probabilities.gather(-1, ids.long())
    others = probabilities.scatter(-1, ids.long(), 0.0).sum(-1, keepdim=True)
    return torch.cat([chosen, others], dim=-1) if ids.shape[-1] < VOCABULARY else chosen


@pytest.mark.parametrize("k", [1, 8, VOCABULARY - 1, VOCABULARY])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(("divergence", "beta"), [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.2)])
def test_loss_and_gradients_equal_float64(divergence: Divergence, beta: float, chunk: int, k: int) -> None:
    head, hidden, teacher_head, taught, targets = case(20)
    known = known_of(teacher_head(taught), k, targets)
    p = slow_outcomes(teacher_head(taught).double().softmax(-1), known.ids)
    q = slow_outcomes(head(hidden).double().softmax(-1), known.ids)
    nll = -head(hidden).double().log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    per_token = 0.7 * slow_divergence(p, q, divergence, beta) + 0.3 * nll
    weights = torch.rand(targets.shape, generator=torch.Generator().manual_seed(k))
    expected = (per_token * weights)[targets != -100].sum()
    student = LazyLogits(head, hidden, tuple(head.parameters()))
    objective = Objective(1.0, 0.3, divergence, beta)
    actual = chunked_objective(student, known, targets, objective, chunk_tokens=chunk, weights=weights)
    torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-5)
    wanted = (hidden, *head.parameters())
    for ours, naive in zip(torch.autograd.grad(actual, wanted), torch.autograd.grad(expected, wanted), strict=True):
        assert (ours - naive).norm() <= 1e-5 * naive.norm()


@pytest.mark.parametrize("k", [1, 8, 64])
def test_what_is_lost_is_the_kl_among_the_others_times_their_mass(k: int) -> None:
    head, hidden, teacher_head, taught, targets = case(20)
    student_logits, teacher_logits = head(hidden)[0].double(), teacher_head(taught)[0].double()
    known = known_of(teacher_logits, k, targets[0])
    others = torch.ones_like(teacher_logits, dtype=torch.bool).scatter(-1, known.ids.long(), False)
    p, q = teacher_logits.softmax(-1), student_logits.softmax(-1)
    r, s = (others * p).sum(-1), (others * q).sum(-1)
    lost = (torch.where(others, p, 0.0) * ((p / r[:, None]) / (q / s[:, None])).log()).sum(-1)
    assert (lost > 0).all()
    found = forward_kl(student_logits, known)
    torch.testing.assert_close(found.double(), slow_divergence(p, q, "forward_kl") - lost, rtol=1e-5, atol=1e-6)

    student_logits = student_logits.detach().float().requires_grad_()
    (gradient,) = torch.autograd.grad(forward_kl(student_logits, known).sum(), student_logits)
    error = gradient - (q - p)
    assert error.masked_fill(others, 0.0).abs().max() < 1e-5
    assert (error.abs().sum(-1) <= 2 * r + 1e-5).all()


def test_a_rest_too_small_for_the_rounding_of_a_sum_is_exact() -> None:
    """1 minus the sum of the others would be 0 in fp32, and its logarithm no number."""
    student_logits, teacher_logits = torch.tensor([[0.0, 1.0, -30.0, -31.0]]), torch.tensor([[1.0, 0.0, -28.0, -33.0]])
    known = known_of(teacher_logits, 2, torch.tensor([0]))
    q = slow_outcomes(student_logits.double().softmax(-1), known.ids)
    log_p, log_q = known.outcomes(student_logits)
    torch.testing.assert_close(log_q.double(), q.log(), rtol=1e-6, atol=0.0)
    assert log_p[0, 2].item() == pytest.approx(-29.3065, abs=1e-3)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_all_tokens_are_softened_exactly(divergence: Divergence) -> None:
    head, hidden, teacher_head, taught, targets = case(20)
    known = known_of(teacher_head(taught), VOCABULARY, targets)
    student = LazyLogits(head, hidden, tuple(head.parameters()))
    teacher = LazyLogits(teacher_head, taught, ())
    objective = Objective(2.5, 0.0, divergence, 0.3)
    actual, expected = (
        chunked_objective(student, either, targets, objective, chunk_tokens=7) for either in (known, teacher)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_some_tokens_are_not_softened() -> None:
    head, hidden, teacher_head, taught, targets = case(20)
    known = known_of(teacher_head(taught), 8, targets)
    with pytest.raises(ValueError, match=r"temperature is 2\.0 and the teacher is known by its 8 likeliest tokens"):
        forward_kl(head(hidden), known, 2.0)


def test_metrics_equal_those_of_the_whole_teacher() -> None:
    head, hidden, teacher_head, taught, targets = case(65)
    student, teacher = LazyLogits(head, hidden, ()), LazyLogits(teacher_head, taught, ())
    for k in (8, VOCABULARY):
        known = known_of(teacher_head(taught), k, targets)
        found, expected = (
            chunked_metrics(student, either, targets, Objective(), chunk_tokens=16) for either in (known, teacher)
        )
        for name in ("student_nll", "teacher_nll", "top1_agreement", *(["kl"] if k == VOCABULARY else [])):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)
        assert (found.kl <= expected.kl + 1e-5).all()
