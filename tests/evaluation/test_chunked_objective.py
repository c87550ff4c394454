# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The chunked loss against its slow twin (full logits), in value and gradients, whatever the chunks; and its memory."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from loss_cases import VOCABULARY, case, slow_objective
from torch import Tensor, nn

from hf_tc.evaluation.chunked_objective import chunked_objective
from hf_tc.evaluation.float32_linear import Float32Linear
from hf_tc.evaluation.kd_loss import Divergence, LazyLogits, Objective


class Exactly:
    """A head whose logits are float32."""

    def __init__(self, head: nn.Linear) -> None:
        self.head = head

    def __call__(self, hidden: Tensor) -> Tensor:
        with Float32Linear():
            return self.head(hidden)


def lazy(head: Any, hidden: Tensor) -> LazyLogits:
    return LazyLogits(head, hidden, tuple(head.parameters()))


def gradients(loss: Tensor, *wanted: Tensor) -> tuple[Tensor, ...]:
    """Of a multiple of the loss that 16 bits cannot hold."""
    return torch.autograd.grad(loss / 3, wanted)


def assert_gradients_close(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...], error: float) -> None:
    for ours, naive in zip(actual, expected, strict=True):
        assert (ours - naive).norm() <= error * naive.norm()


@pytest.mark.parametrize("chunk", [1, 5, 64, 10_000])
@pytest.mark.parametrize("length", [1, 65, 130])
@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.0), (2.5, 0.3), (0.5, 1.0)])
def test_equals_slow_twin(length: int, chunk: int, temperature: float, share: float) -> None:
    head, hidden, teacher_head, taught, targets = case(length)
    student, teacher, objective = lazy(head, hidden), lazy(teacher_head, taught), Objective(temperature, share)
    actual = chunked_objective(student, teacher, targets, objective, chunk_tokens=chunk)
    expected = slow_objective(head(hidden), teacher_head(taught), targets, temperature, share).sum()
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-5)
    wanted = (hidden, *head.parameters())
    assert_gradients_close(gradients(actual, *wanted), gradients(expected, *wanted), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 5, 10_000])
@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.0), (2.5, 0.3)])
@pytest.mark.parametrize(
    ("divergence", "beta"), [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.1), ("jsd", 0.5), ("jsd", 0.9)]
)
def test_every_divergence_equals_float64(
    divergence: Divergence, beta: float, temperature: float, share: float, chunk: int, dtype: torch.dtype
) -> None:
    head, hidden, teacher_head, taught, targets = case(20, dtype)
    exact_head, exact_teacher_head = (copy.deepcopy(module).double() for module in (head, teacher_head))
    exact_hidden = hidden.detach().double().requires_grad_()
    logits = exact_head(exact_hidden), exact_teacher_head(taught.double())
    expected = slow_objective(*logits, targets, temperature, share, divergence, beta).sum()
    student, teacher = (
        LazyLogits(Exactly(head), hidden, tuple(head.parameters())),
        LazyLogits(Exactly(teacher_head), taught, ()),
    )
    objective = Objective(temperature, share, divergence, beta)
    actual = chunked_objective(student, teacher, targets, objective, chunk_tokens=chunk)
    torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-5)
    # In bf16 the gradient of a chunk is rounded, and so is the whole: 0.15 % each, a little more by some CPUs.
    expected_gradients = gradients(expected, exact_hidden, *exact_head.parameters())
    error = 1e-5 if dtype == torch.float32 else 3.2e-3
    assert_gradients_close(gradients(actual, hidden, *head.parameters()), expected_gradients, error)


def test_tokens_count_what_their_weights_say() -> None:
    head, hidden, teacher_head, taught, targets = case(30)
    weights = torch.rand(targets.shape)
    student, teacher = lazy(head, hidden), lazy(teacher_head, taught)
    actual = chunked_objective(student, teacher, targets, Objective(2.0, 0.3), chunk_tokens=7, weights=weights)
    losses = slow_objective(head(hidden), teacher_head(taught), targets, 2.0, 0.3)
    expected = (losses * weights[targets != -100]).sum()
    torch.testing.assert_close(actual, expected.float())
    assert_gradients_close(gradients(actual, hidden, head.weight), gradients(expected, hidden, head.weight), 1e-5)


def test_small_gradients_survive_float16() -> None:
    head, hidden, teacher_head, taught, targets = case(20, torch.float16)
    weights = torch.full(targets.shape, 2.0**-17)  # a gradient of 1e-5 has three bits left in float16
    student, teacher = (
        LazyLogits(Exactly(head), hidden, tuple(head.parameters())),
        LazyLogits(Exactly(teacher_head), taught, ()),
    )
    small = chunked_objective(student, teacher, targets, Objective(), chunk_tokens=7, weights=weights)
    whole = chunked_objective(student, teacher, targets, Objective(), chunk_tokens=7)
    of_small, of_whole = (torch.autograd.grad(loss, (hidden, head.weight)) for loss in (small * 2.0**17, whole))
    assert_gradients_close(of_small, of_whole, 3e-3)


@pytest.mark.parametrize("chunk", [1, 5, 14, 100])
def test_without_targets_every_position_counts(chunk: int) -> None:
    head, hidden, teacher_head, taught, targets = case(7)
    actual = chunked_objective(lazy(head, hidden), lazy(teacher_head, taught), None, Objective(), chunk_tokens=chunk)
    expected = slow_objective(head(hidden), teacher_head(taught), targets.clamp(min=0), 1.0, 0.0).sum()
    torch.testing.assert_close(actual, expected.float())
    assert_gradients_close(gradients(actual, hidden), gradients(expected, hidden), 1e-5)


def test_cross_entropy_without_targets_is_refused() -> None:
    head, hidden, teacher_head, taught, _ = case(7)
    with pytest.raises(ValueError, match=r"targets is None and ce_weight is 0\.3"):
        chunked_objective(lazy(head, hidden), lazy(teacher_head, taught), None, Objective(1.0, 0.3), chunk_tokens=5)


def test_frozen_and_unused_parameters_get_no_gradient() -> None:
    head, hidden, teacher_head, taught, targets = case(20)
    head.bias.requires_grad_(False)
    unused = nn.Parameter(torch.ones(3))
    student = LazyLogits(head, hidden, (head.weight, unused, head.bias))
    chunked_objective(student, lazy(teacher_head, taught), targets, Objective(), chunk_tokens=7).backward()
    assert [x.grad is None for x in (head.weight, hidden, unused, head.bias)] == [False, False, True, True]
    assert all(parameter.grad is None for parameter in teacher_head.parameters())


def test_a_trained_tensor_that_is_not_named_is_refused() -> None:
    head, hidden, teacher_head, taught, targets = case(20)
    student = LazyLogits(head, hidden, (head.weight,))
    with pytest.raises(ValueError, match=r"uses a trained tensor of shape \(97,\)"):
        chunked_objective(student, lazy(teacher_head, taught), targets, Objective(), chunk_tokens=7)
    head.bias.requires_grad_(False)
    chunked_objective(student, lazy(teacher_head, taught), targets, Objective(), chunk_tokens=7).backward()


def test_heads_of_several_parameters_get_their_gradients() -> None:
    peft = pytest.importorskip("peft")
    _, hidden, teacher_head, taught, targets = case(20)
    head = peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False), nn.Sequential(nn.Linear(16, VOCABULARY))
    )
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    assert len(trained) == 2
    actual = chunked_objective(lazy(head, hidden), lazy(teacher_head, taught), targets, Objective(), chunk_tokens=7)
    expected = slow_objective(head(hidden), teacher_head(taught), targets, 1.0, 0.0).sum()
    assert_gradients_close(gradients(actual, hidden, *trained), gradients(expected, hidden, *trained), 1e-5)


def test_nothing_labelled_gives_no_loss_and_zero_gradients() -> None:
    head, hidden, teacher_head, taught, targets = case(5)
    nothing = torch.full_like(targets, -100)
    loss = chunked_objective(lazy(head, hidden), lazy(teacher_head, taught), nothing, Objective(), chunk_tokens=50)
    assert loss.item() == 0.0
    loss.backward()
    for tensor in (hidden, *head.parameters()):
        assert tensor.grad is not None
        assert not tensor.grad.any()


def test_unlabelled_positions_do_not_matter() -> None:
    head, hidden, teacher_head, taught, targets = case(20)
    teacher = lazy(teacher_head, taught)
    before = chunked_objective(lazy(head, hidden), teacher, targets, Objective(), chunk_tokens=50)
    spoilt = hidden.detach().masked_fill((targets == -100)[..., None], float("nan"))
    after = chunked_objective(lazy(head, spoilt), teacher, targets, Objective(), chunk_tokens=50)
    assert torch.equal(before, after)
    with torch.no_grad():
        assert torch.equal(
            before, chunked_objective(lazy(head, hidden), teacher, targets, Objective(), chunk_tokens=50)
        )


def test_heads_run_once_on_no_more_than_a_chunk_and_no_logits_are_kept() -> None:
    seen: list[int] = []
    head, hidden, teacher_head, taught, targets = case(500)
    for module in (head, teacher_head):
        module.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    kept: list[weakref.ref[Tensor]] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(weakref.ref(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = chunked_objective(lazy(head, hidden), lazy(teacher_head, taught), targets, Objective(), chunk_tokens=50)
    alive = [tensor.shape for tensor in (reference() for reference in kept) if tensor is not None]
    assert alive
    assert not [shape for shape in alive if shape[-1:] == (VOCABULARY,) and len(shape) == 2]
    loss.backward()
    assert max(seen) == 50
    assert sum(seen) == 2 * int((targets != -100).sum())
