# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""TRL's kernels in the place of the chunked loss: the same numbers as float64's, and only where they fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_cases import case, slow_objective
from tiny_causal_lms import tiny_config, tiny_llama
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, PhiConfig

from hf_tc.evaluation import trl_divergence
from hf_tc.evaluation.chunked_objective import chunked_objective
from hf_tc.evaluation.kd_loss import Divergence, LazyLogits, Objective
from hf_tc.evaluation.linear_head import LinearHead
from hf_tc.evaluation.lm_head import BackboneThenHead

needs_trl = pytest.mark.skipif(trl_divergence.function() is None, reason="needs TRL")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DIVERGENCES = [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.1), ("jsd", 0.9)]
ERROR = {torch.float32: 1e-5, torch.bfloat16: 3.2e-3}


def linear(head: nn.Linear, hidden: Tensor, is_linear: bool = True) -> LazyLogits:
    whole = LinearHead(head.weight, head.bias) if is_linear else None
    return LazyLogits(head, hidden, tuple(head.parameters()), whole)


def take_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its torch form, on a CPU."""
    monkeypatch.setattr(trl_divergence, "heads_of", lambda ours, theirs, objective: (ours.linear, theirs.linear))


def compare(length: int, objective: Objective, dtype: torch.dtype, device: str) -> None:
    """Loss and gradients, by tokens that count differently, with the textbook formula in float64."""
    head, hidden, teacher_head, taught, targets = (x.to(device) for x in case(length, dtype))
    hidden = hidden.detach().requires_grad_()
    weights = torch.rand(targets.shape, device=device)
    student, teacher = linear(head, hidden), linear(teacher_head, taught)
    loss = chunked_objective(student, teacher, targets, objective, chunk_tokens=7, weights=weights)
    wanted = hidden, head.weight, head.bias
    exact = [x.detach().double().requires_grad_() for x in wanted]
    logits = exact[0] @ exact[1].T + exact[2], taught.double() @ teacher_head.weight.double().T
    form = objective.divergence, objective.jsd_beta
    losses = slow_objective(*logits, targets, objective.temperature, 0.0, *form)
    expected = (losses * weights[targets != -100]).sum()
    torch.testing.assert_close(loss, expected.float(), rtol=1e-4, atol=1e-5)
    gradients = zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(expected, exact), strict=True)
    assert all((ours - naive).norm() <= ERROR[dtype] * naive.norm() for ours, naive in gradients)


@needs_trl
@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
def test_every_divergence_equals_float64(
    divergence: Divergence, beta: float, temperature: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_trl(monkeypatch)
    compare(20, Objective(temperature, 0.0, divergence, beta), dtype, "cpu")


@needs_trl
@pytest.mark.parametrize("length", [1, 63, 64, 65, 500])
def test_lengths(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take_trl(monkeypatch)
    compare(length, Objective(2.0), torch.float32, "cpu")


@needs_trl
def test_no_labelled_token(monkeypatch: pytest.MonkeyPatch) -> None:
    take_trl(monkeypatch)
    head, hidden, teacher_head, taught, targets = case(5)
    unlabelled = torch.full_like(targets, -100)
    loss = chunked_objective(
        linear(head, hidden), linear(teacher_head, taught), unlabelled, Objective(), chunk_tokens=7
    )
    loss.backward()
    assert loss == 0
    assert not head.weight.grad.any()
    assert not hidden.grad.any()


@needs_gpu
@needs_trl
@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
def test_on_a_gpu(divergence: Divergence, beta: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, used = Objective(2.0, 0.0, divergence, beta), []
    per_token = trl_divergence.per_token
    monkeypatch.setattr(trl_divergence, "per_token", lambda *all_: used.append(1) or per_token(*all_))
    compare(500, objective, dtype, "cuda")
    assert used


@needs_gpu
@needs_trl
def test_what_does_not_fit_on_a_gpu() -> None:
    head, hidden, teacher_head, taught, _ = (x.cuda() for x in case(5))
    student, teacher = linear(head, hidden), linear(teacher_head, taught)
    assert trl_divergence.heads_of(student, teacher, Objective()) is not None
    assert trl_divergence.heads_of(student, teacher, Objective(ce_weight=0.3)) is None
    assert trl_divergence.heads_of(linear(head, hidden, is_linear=False), teacher, Objective()) is None
    assert trl_divergence.heads_of(student, linear(teacher_head.cpu(), taught), Objective()) is None
    with torch.no_grad():
        assert trl_divergence.heads_of(student, teacher, Objective()) is None
    with torch.autocast("cuda", torch.float16):
        assert trl_divergence.heads_of(student, teacher, Objective()) is None
    head.weight.requires_grad_(False)
    assert trl_divergence.heads_of(student, teacher, Objective()) is None


def test_a_cpu_takes_the_chunked_loss() -> None:
    head, hidden, teacher_head, taught, _ = case(5)
    assert trl_divergence.heads_of(linear(head, hidden), linear(teacher_head, taught), Objective()) is None


@pytest.mark.parametrize(
    ("config", "is_linear"),
    [
        (tiny_llama().config, True),
        (tiny_config(PhiConfig), True),  # a head with a bias
        (tiny_config(Gemma2Config, final_logit_softcapping=2.0), False),
        (tiny_config(CohereConfig, logit_scale=0.25), False),
        (tiny_config(GraniteConfig, logits_scaling=8.0), False),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_which_heads_are_linear(config: Any, is_linear: bool) -> None:
    model = AutoModelForCausalLM.from_config(config)
    found = BackboneThenHead(model).lazy_logits(torch.zeros(1, 2, 32)).linear
    assert (found is not None) == is_linear
    if found is not None:
        head = model.get_output_embeddings()
        assert found.weight is head.weight
        assert found.bias is head.bias


def test_a_head_with_an_adapter_is_none() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules=["lm_head"]))
    assert BackboneThenHead(model).lazy_logits(torch.zeros(1, 2, 32)).linear is None
