# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The loss of a token: known answers, and what an evaluation reports against full logits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from loss_cases import case

from hf_tc.evaluation.kd_loss import (
    Divergence,
    LazyLogits,
    Objective,
    chunked_metrics,
    forward_kl,
    next_token_targets,
    perplexity_from_nll,
)


def test_kl_of_equal_logits_is_exactly_zero() -> None:
    logits = 20 * torch.randn(50, 1000, generator=torch.Generator().manual_seed(0))
    for temperature in (0.3, 1.0, 4.0):
        assert torch.equal(forward_kl(logits, logits.clone(), temperature), torch.zeros(50))


def test_forward_kl_of_a_worked_example() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2). The reverse KL would be 1/2 ln(4/3) = 0.144.
    teacher_logits, student_logits = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert forward_kl(student_logits, teacher_logits).item() == pytest.approx(expected, abs=1e-7)


def test_reverse_kl_and_jsd_of_the_same_example() -> None:
    teacher_logits, student_logits = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    reverse = Objective(divergence="reverse_kl").softened(student_logits, teacher_logits)
    assert reverse.item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-7)
    # b = 1/4: m = (9/16, 7/16).
    of_teacher = 0.75 * math.log(12 / 9) + 0.25 * math.log(4 / 7)
    of_student = 0.5 * math.log(8 / 9) + 0.5 * math.log(8 / 7)
    jsd = Objective(divergence="jsd", jsd_beta=0.25).softened(student_logits, teacher_logits)
    assert jsd.item() == pytest.approx(0.25 * of_teacher + 0.75 * of_student, abs=1e-7)


@pytest.mark.parametrize(("beta", "divergence"), [(1e-3, "forward_kl"), (1 - 1e-3, "reverse_kl")])
def test_jsd_leans_to_the_kl_that_is_said(beta: float, divergence: Divergence) -> None:
    student_logits, teacher_logits = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(2)).double()
    jsd = Objective(divergence="jsd", jsd_beta=beta).softened(student_logits, teacher_logits)
    expected = min(beta, 1 - beta) * Objective(divergence=divergence).softened(student_logits, teacher_logits)
    torch.testing.assert_close(jsd, expected, rtol=0.02, atol=0.0)


def test_temperature_softens_both_and_scales_by_its_square() -> None:
    student_logits, teacher_logits = torch.randn(2, 7, 30, generator=torch.Generator().manual_seed(1))
    softened = 9 * forward_kl(student_logits / 3, teacher_logits / 3)
    torch.testing.assert_close(forward_kl(student_logits, teacher_logits, temperature=3.0), softened)


def test_metrics_equal_full_logits() -> None:
    student_head, student_hidden, teacher_head, teacher_hidden, targets = case(65)
    student, teacher = LazyLogits(student_head, student_hidden, ()), LazyLogits(teacher_head, teacher_hidden, ())
    metrics = chunked_metrics(student, teacher, targets, Objective(2.0, 0.25), chunk_tokens=16)
    labelled = targets != -100
    student_logits, teacher_logits = student_head(student_hidden)[labelled], teacher_head(teacher_hidden)[labelled]
    torch.testing.assert_close(metrics.kl, forward_kl(student_logits, teacher_logits))
    torch.testing.assert_close(
        metrics.student_nll, F.cross_entropy(student_logits, targets[labelled], reduction="none")
    )
    torch.testing.assert_close(
        metrics.teacher_nll, F.cross_entropy(teacher_logits, targets[labelled], reduction="none")
    )
    assert torch.equal(metrics.top1_agreement, (student_logits.argmax(-1) == teacher_logits.argmax(-1)).float())
    objective = Objective(2.0, 0.25).per_token(student_logits, teacher_logits, targets[labelled])
    torch.testing.assert_close(metrics.objective, objective)


def test_next_token_targets_shift_left() -> None:
    labels = torch.tensor([[-100, 7, 8, -100, 9]])
    assert next_token_targets(labels).tolist() == [[7, 8, -100, 9, -100]]


def test_perplexity_from_nll() -> None:
    assert perplexity_from_nll(math.log(23.6)) == pytest.approx(23.6)
    assert perplexity_from_nll(1e4) == math.inf
