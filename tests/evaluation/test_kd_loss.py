# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The chunked loss against its slow twin (full logits), known answers, and memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_tc.evaluation.kd_loss import (
    LazyLogits,
    Objective,
    chunked_metrics,
    chunked_objective,
    forward_kl,
    next_token_targets,
    perplexity_from_nll,
)

VOCABULARY, STUDENT_WIDTH, TEACHER_WIDTH = 97, 16, 24


def slow_objective(
    student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, temperature: float, share: float
) -> Tensor:
    """Textbook formula in fp64 over all positions at once, labelled ones selected last."""
    p = torch.softmax(teacher_logits.double() / temperature, -1)
    q = torch.softmax(student_logits.double() / temperature, -1)
    kl = temperature**2 * (p * (p.log() - q.log())).sum(-1)
    nll = -torch.softmax(student_logits.double(), -1).log().gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return ((1 - share) * kl + share * nll)[targets != -100]


def case(length: int, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, Tensor, nn.Linear, Tensor, Tensor]:
    torch.manual_seed(length)
    student_head = nn.Linear(STUDENT_WIDTH, VOCABULARY, dtype=dtype)
    teacher_head = nn.Linear(TEACHER_WIDTH, VOCABULARY, bias=False, dtype=dtype)
    student_hidden = (3 * torch.randn(2, length, STUDENT_WIDTH)).to(dtype).requires_grad_()
    teacher_hidden = (3 * torch.randn(2, length, TEACHER_WIDTH)).to(dtype)
    targets = torch.randint(0, VOCABULARY, (2, length))
    targets[torch.rand(2, length) < 0.3] = -100
    targets[0, 0] = 5
    return student_head, student_hidden, teacher_head, teacher_hidden, targets


def slow_and_chunked(
    length: int, dtype: torch.dtype, temperature: float, share: float
) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
    """Losses, and their gradients at the student's hidden states and head: of all logits at once, and in chunks."""
    student_head, student_hidden, teacher_head, teacher_hidden, targets = case(length, dtype)
    slow = slow_objective(student_head(student_hidden), teacher_head(teacher_hidden), targets, temperature, share)
    student, teacher = LazyLogits(student_head, student_hidden), LazyLogits(teacher_head, teacher_hidden)
    chunked = chunked_objective(student, teacher, targets, Objective(temperature, share), chunk_tokens=64)
    for losses in (slow, chunked):
        yield losses, torch.autograd.grad(losses.sum(), [student_hidden, *student_head.parameters()])


@pytest.mark.parametrize("length", [1, 63, 64, 65, 500])
@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.0), (2.5, 0.3), (0.5, 1.0)])
def test_chunked_objective_equals_slow_twin(length: int, temperature: float, share: float) -> None:
    (expected, expected_grads), (actual, actual_grads) = slow_and_chunked(length, torch.float32, temperature, share)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-5)
    for actual_grad, expected_grad in zip(actual_grads, expected_grads, strict=True):
        torch.testing.assert_close(actual_grad, expected_grad, rtol=1e-4, atol=1e-5 * expected_grad.abs().max().item())


@pytest.mark.parametrize("length", [1, 65, 500])
def test_bf16_logits_are_compared_in_fp32(length: int) -> None:
    # The twin gets the same bf16 logits, so values differ by fp32 rounding only. Gradients are summed in bf16 by the
    # head, chunk by chunk: 2^-8 relative per sum, 2 % of the largest entry over up to 16 chunks.
    (expected, expected_grads), (actual, actual_grads) = slow_and_chunked(length, torch.bfloat16, 2.0, 0.2)
    torch.testing.assert_close(actual, expected.float(), rtol=2e-2, atol=2e-2)
    for actual_grad, expected_grad in zip(actual_grads, expected_grads, strict=True):
        scale = expected_grad.abs().max().item()
        torch.testing.assert_close(actual_grad, expected_grad, rtol=2e-2, atol=2e-2 * scale)


def test_kl_of_equal_logits_is_exactly_zero() -> None:
    logits = 20 * torch.randn(50, 1000, generator=torch.Generator().manual_seed(0))
    for temperature in (0.3, 1.0, 4.0):
        assert torch.equal(forward_kl(logits, logits.clone(), temperature), torch.zeros(50))


def test_forward_kl_of_a_worked_example() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2). The reverse KL would be 1/2 ln(4/3) = 0.144.
    teacher_logits, student_logits = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert forward_kl(student_logits, teacher_logits).item() == pytest.approx(expected, abs=1e-7)


def test_temperature_softens_both_and_scales_by_its_square() -> None:
    student_logits, teacher_logits = torch.randn(2, 7, 30, generator=torch.Generator().manual_seed(1))
    softened = 9 * forward_kl(student_logits / 3, teacher_logits / 3)
    torch.testing.assert_close(forward_kl(student_logits, teacher_logits, temperature=3.0), softened)


def test_nothing_labelled_gives_no_loss_and_zero_gradients() -> None:
    student_head, student_hidden, teacher_head, teacher_hidden, targets = case(5)
    student, teacher = LazyLogits(student_head, student_hidden), LazyLogits(teacher_head, teacher_hidden)
    losses = chunked_objective(student, teacher, torch.full_like(targets, -100), Objective(), chunk_tokens=50)
    assert losses.shape == (0,)
    losses.sum().backward()
    for tensor in (student_hidden, *student_head.parameters()):
        assert tensor.grad is not None
        assert not tensor.grad.any()
    assert all(parameter.grad is None for parameter in teacher_head.parameters())


def test_unlabelled_positions_do_not_matter() -> None:
    student_head, student_hidden, teacher_head, teacher_hidden, targets = case(20)
    student, teacher = LazyLogits(student_head, student_hidden), LazyLogits(teacher_head, teacher_hidden)
    before = chunked_objective(student, teacher, targets, Objective(), chunk_tokens=50)
    spoilt = student_hidden.detach().masked_fill((targets == -100)[..., None], float("nan"))
    after = chunked_objective(LazyLogits(student_head, spoilt), teacher, targets, Objective(), chunk_tokens=50)
    assert torch.equal(before, after)


def test_heads_never_see_more_than_a_chunk_of_tokens() -> None:
    seen: list[int] = []

    def spy(head: nn.Linear):
        def run(hidden: Tensor) -> Tensor:
            seen.append(len(hidden))
            return head(hidden)

        return run

    student_head, student_hidden, teacher_head, teacher_hidden, targets = case(500)
    student, teacher = LazyLogits(spy(student_head), student_hidden), LazyLogits(spy(teacher_head), teacher_hidden)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        losses = chunked_objective(student, teacher, targets, Objective(), chunk_tokens=50)
    losses.sum().backward()
    assert max(seen) == 50
    assert not [tensor.shape for tensor in saved if tensor.dim() == 2 and tensor.shape[-1] == VOCABULARY]


def test_metrics_equal_full_logits() -> None:
    student_head, student_hidden, teacher_head, teacher_hidden, targets = case(65)
    student, teacher = LazyLogits(student_head, student_hidden), LazyLogits(teacher_head, teacher_hidden)
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
