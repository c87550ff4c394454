# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""TRL's kernels in the place of the chunked loss: the same numbers as float64's, and only where they fit."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from loss_cases import case, slow_objective
from tiny_causal_lms import tiny_config, tiny_llama
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, PhiConfig

from hf_tc.evaluation import chunked_objective as chunked_objective_module
from hf_tc.evaluation import trl_divergence
from hf_tc.evaluation.chunked_objective import chunked_objective
from hf_tc.evaluation.kd_loss import Divergence, LazyLogits, Objective
from hf_tc.evaluation.linear_head import LinearHead, linear_head
from hf_tc.evaluation.lm_head import BackboneThenHead

needs_trl = pytest.mark.skipif(trl_divergence.divergence_function() is None, reason="needs TRL")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DIVERGENCES = [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.1), ("jsd", 0.9)]
ERROR = {torch.float32: 1e-5, torch.bfloat16: 3.2e-3}


def linear(head: nn.Linear, hidden: Tensor, is_linear: bool = True) -> LazyLogits:
    whole = LinearHead(head.weight, head.bias) if is_linear else None
    return LazyLogits(head, hidden, tuple(head.parameters()), whole)


def take_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its torch form, on a CPU; fails where it is not taken."""
    monkeypatch.setattr(trl_divergence, "_are_on_one_gpu", lambda *tensors: True)
    monkeypatch.setattr(chunked_objective_module, "_SumWithGradients", None)


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


@needs_trl
def test_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    take_trl(monkeypatch)
    head, hidden, teacher_head, taught, _ = case(5)
    student, teacher = linear(head, hidden), linear(teacher_head, taught)
    fitting = trl_divergence.fitting_heads
    assert fitting(student, teacher, Objective()) == (student.linear, teacher.linear)
    assert fitting(student, teacher, Objective(ce_weight=0.3)) is None
    assert fitting(linear(head, hidden, is_linear=False), teacher, Objective()) is None
    assert fitting(student, linear(teacher_head, taught, is_linear=False), Objective()) is None
    assert fitting(student, linear(nn.Linear(24, 96), taught), Objective()) is None
    with torch.no_grad():
        assert fitting(student, teacher, Objective()) is None
    with torch.autocast("cpu", torch.float16):
        assert fitting(student, teacher, Objective()) is None
    monkeypatch.setattr(trl_divergence, "_is_right", lambda *about: False)
    assert fitting(student, teacher, Objective()) is None
    head.weight.requires_grad_(False)
    assert fitting(student, teacher, Objective()) is None


def test_a_trl_that_does_not_import_is_left_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    package = tmp_path / "trl"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('of another time')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "trl"]:
        monkeypatch.delitem(sys.modules, name)
    with caplog.at_level(logging.WARNING):
        assert trl_divergence.divergence_function.__wrapped__() is None
    assert "TRL does not import: of another time" in caplog.text


def test_a_cpu_takes_the_chunked_loss() -> None:
    head, hidden, teacher_head, taught, _ = case(5)
    assert trl_divergence.fitting_heads(linear(head, hidden), linear(teacher_head, taught), Objective()) is None


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


def test_a_head_that_gives_nothing_yet_is_none() -> None:
    model = AutoModelForCausalLM.from_config(tiny_config(GraniteConfig, logits_scaling=8.0))
    nn.init.zeros_(model.lm_head.weight)  # 0 / 8 is 0: nothing tells that logits are scaled
    assert BackboneThenHead(model).lazy_logits(torch.zeros(1, 2, 32)).linear is None


def test_heads_whose_weights_come_and_go_are_none() -> None:
    head = nn.Linear(3, 5)
    assert linear_head(head) == LinearHead(head.weight, head.bias)
    assert linear_head(nn.utils.parametrizations.weight_norm(nn.Linear(3, 5))) is None
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 5))
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))  # the head is a part of its group, and no group itself
        model.unshard()
        assert linear_head(model[1]) is None
    finally:
        dist.destroy_process_group()
