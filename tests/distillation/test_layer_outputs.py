# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The outputs of recurrent layers against those of the teacher's attention, beside the loss on predictions or alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from distillation_runs import config, logged
from library_names import checkpoint_activations, checkpointing_argument
from tiny_causal_lms import labelled_examples, tiny_llama, tiny_qwen3
from torch import Tensor, nn

from hf_tc.distillation import DistillationTrainer
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.teachers.new_student import build_student

LAYERS = (0, 2)


def student() -> HybridGDNForCausalLM:
    kinds = ["linear_attention", "full_attention", "linear_attention"]
    return build_student(tiny_qwen3(num_hidden_layers=3), kinds)


def teacher(**changes: Any) -> nn.Module:
    return tiny_qwen3(2, num_hidden_layers=3, **changes)


def weighted_examples(count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [{**x, "token_weights": torch.rand(12, generator=generator)} for x in labelled_examples(count)]


def attention_outputs(model: Any, ids: Tensor) -> tuple[list[Tensor], Tensor]:
    found: list[Tensor] = []
    modules = [model.model.layers[index].self_attn for index in LAYERS]
    handles = [m.register_forward_hook(lambda module, inputs, output: found.append(output[0])) for m in modules]
    logits = model(ids).logits
    for handle in handles:
        handle.remove()
    return found, logits


def by_hand(model: Any, taught: Any, examples: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean error of the layers, and mean KL, per weight, from one example at a time."""
    errors, kl, total = torch.zeros(()), torch.zeros(()), 0.0
    for example in examples:
        targets = torch.nn.functional.pad(example["labels"][1:], (0, 1), value=-100)
        weights = example["token_weights"] * (targets != -100)
        ours, student_logits = attention_outputs(model, example["input_ids"][None])
        with torch.no_grad():
            theirs, teacher_logits = attention_outputs(taught, example["input_ids"][None])
        for mine, target in zip(ours, theirs, strict=True):
            difference, size = ((x[0].square().sum(-1) * weights).sum() for x in (mine - target, target))
            errors = errors + weights.sum() * difference / size / len(LAYERS)
        log_q, log_p = student_logits[0].log_softmax(-1), teacher_logits[0].log_softmax(-1)
        kl = kl + ((log_p.exp() * (log_p - log_q)).sum(-1) * weights).sum()
        total += weights.sum().item()
    return errors / total, kl / total


def trainer(folder: Path, examples: Any, model: Any = None, **changes: Any) -> DistillationTrainer:
    options = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "max_steps": 1, "layer_weight": 0.7}
    arguments = config(folder, **{**options, **changes})
    given = student() if model is None else model
    return DistillationTrainer(given, teacher(), arguments, train_dataset=examples, eval_dataset=examples)


@pytest.mark.parametrize("size", [8, 4, 2])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.0])
def test_the_term_and_its_gradient_are_those_by_hand_whatever_the_batches(
    tmp_path: Path, share: float, size: int
) -> None:
    examples, before = weighted_examples(8), student()
    batches = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
    run = trainer(tmp_path, examples, distribution_weight=share, **batches)
    run.train()
    errors, kl = by_hand(before, teacher().eval(), examples)
    expected = share * kl + 0.7 * errors
    expected.backward()
    assert logged(run, "loss")[0] == pytest.approx(expected.item(), rel=1e-4)
    for (name, old), new in zip(before.named_parameters(), run.model.parameters(), strict=True):
        step = 0.0 if old.grad is None else 0.1 * old.grad
        torch.testing.assert_close(new, old - step, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_evaluation_reports_it_and_the_loss_asked_for(tmp_path: Path, share: float) -> None:
    examples = weighted_examples(7)
    with torch.no_grad():
        errors, kl = by_hand(student().eval(), teacher().eval(), examples)
    metrics = trainer(tmp_path, examples, per_device_eval_batch_size=3, distribution_weight=share).evaluate()
    assert metrics["eval_layer_error"] == pytest.approx(errors.item(), rel=1e-5)
    assert metrics["eval_kl"] == pytest.approx(kl.item(), rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx((share * kl + 0.7 * errors).item(), rel=1e-5)


def test_alone_it_computes_no_logits_and_brings_layers_closer(tmp_path: Path) -> None:
    run = trainer(
        tmp_path, labelled_examples(8), distribution_weight=0.0, trains="mixers", max_steps=20, optim="adamw_torch",
        learning_rate=1e-2,
    )  # fmt: skip
    before = run.evaluate()["eval_layer_error"]

    def refuse(*args: Any) -> None:
        raise AssertionError("logits are computed")

    handles = [model.lm_head.register_forward_hook(refuse) for model in (run.model, run.teacher)]
    run.train()
    for handle in handles:
        handle.remove()
    assert run.evaluate()["eval_layer_error"] < 0.8 * before


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_checkpointing_of_activations_changes_nothing(tmp_path: Path, share: float) -> None:
    plain, checkpointed = (
        trainer(tmp_path, labelled_examples(8), max_steps=3, distribution_weight=share, **checkpointing_argument(on))
        for on in (False, True)
    )
    plain.train()
    checkpointed.train()
    assert logged(checkpointed, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-6)
    for ours, theirs in zip(checkpointed.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_an_adapter_learns_from_it(tmp_path: Path) -> None:
    options = {"trains": "lora", "distribution_weight": 0.0, "optim": "adamw_torch", "learning_rate": 1e-2}
    run = trainer(tmp_path, labelled_examples(8), max_steps=10, **options)
    before = run.evaluate()["eval_layer_error"]
    run.train()
    assert run.evaluate()["eval_layer_error"] < 0.9 * before


def test_what_has_no_such_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compares recurrent layers of hf_tc with the teacher; the LlamaForCausalLM"):
        trainer(tmp_path, labelled_examples(8), tiny_llama(num_hidden_layers=3, hidden_size=48))
    arguments = config(tmp_path, layer_weight=1.0)
    with pytest.raises(ValueError, match="the student has 3 of width 48, the teacher 2 of width 48"):
        DistillationTrainer(student(), tiny_qwen3(), arguments, train_dataset=labelled_examples(8))
    frozen = copy.deepcopy(student()).requires_grad_(False)
    frozen.lm_head.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="give outputs without gradients, so layer_weight would teach nothing"):
        trainer(tmp_path, labelled_examples(8), frozen).train()


def test_checkpointing_that_hides_gradients_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, labelled_examples(8))
    checkpoint_activations(run.model, use_reentrant=True)
    run.model.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(ValueError, match="activation checkpointing has use_reentrant=True"):
        run.train()
