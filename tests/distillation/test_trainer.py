# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The trainer against the hand-written objective: loss, gradient, evaluation, and where they lead."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from distillation_runs import config, hand_written_mean_loss, logged, train
from tiny_causal_lms import labelled_examples, tiny_config, tiny_llama, tiny_qwen3
from transformers import Gemma2Config, Gemma2ForCausalLM

from hf_tc.distillation import DistillationTrainer
from hf_tc.evaluation import trl_divergence
from hf_tc.evaluation.kd_loss import LazyLogits, Objective


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.0), (2.0, 0.4)])
def test_first_step_is_the_hand_written_loss_and_gradient(tmp_path: Path, temperature: float, share: float) -> None:
    student, teacher, examples = tiny_llama(), tiny_qwen3(), labelled_examples(8)
    before = copy.deepcopy(student)
    trainer = train(
        tmp_path,
        student,
        count=8,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        max_steps=1,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
        temperature=temperature,
        ce_weight=share,
    )
    expected = hand_written_mean_loss(before, teacher.eval(), examples, temperature, share)
    expected.backward()
    assert logged(trainer, "loss")[0] == pytest.approx(expected.item(), rel=1e-4)
    for old, new in zip(before.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.1 * old.grad, rtol=1e-4, atol=1e-6)


def test_evaluation_is_exact_over_the_tokens_of_the_dataset(tmp_path: Path) -> None:
    student, teacher, examples = tiny_llama(), tiny_qwen3(), labelled_examples(7)
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        args=config(tmp_path, per_device_eval_batch_size=3, temperature=2.0, ce_weight=0.4),
        eval_dataset=examples,
    )
    metrics = trainer.evaluate()
    student.eval()
    with torch.no_grad():
        kl = hand_written_mean_loss(student, teacher, examples, 1.0, 0.0).item()
        student_nll = hand_written_mean_loss(student, teacher, examples, 1.0, 1.0).item()
        teacher_nll = hand_written_mean_loss(teacher, teacher, examples, 1.0, 1.0).item()
        objective = hand_written_mean_loss(student, teacher, examples, 2.0, 0.4).item()
    assert metrics["eval_kl"] == pytest.approx(kl, rel=1e-5)
    assert metrics["eval_student_perplexity"] == pytest.approx(math.exp(student_nll), rel=1e-5)
    assert metrics["eval_teacher_perplexity"] == pytest.approx(math.exp(teacher_nll), rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(objective, rel=1e-5)
    # Another evaluation starts from nothing.
    with torch.no_grad():
        kl_of_two = hand_written_mean_loss(student, teacher, examples[:2], 1.0, 0.0).item()
    assert trainer.evaluate(examples[:2], metric_key_prefix="two")["two_kl"] == pytest.approx(kl_of_two, rel=1e-5)
    assert kl_of_two != pytest.approx(kl, rel=1e-2)


def test_the_divergence_asked_for_is_trained_and_evaluated(tmp_path: Path) -> None:
    student, teacher, examples = tiny_llama(), tiny_qwen3().eval(), labelled_examples(4)
    with torch.no_grad():
        # The reverse KL is the forward one with the two changing places.
        reverse = hand_written_mean_loss(teacher, student.eval(), examples, 2.0, 0.0).item()
        forward = hand_written_mean_loss(student, teacher, examples, 1.0, 0.0).item()
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        args=config(tmp_path, max_steps=1, temperature=2.0, divergence="reverse_kl"),
        train_dataset=examples,
        eval_dataset=examples,
    )
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(reverse, rel=1e-5)
    assert metrics["eval_kl"] == pytest.approx(forward, rel=1e-5)
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(reverse, rel=1e-4)


@pytest.mark.parametrize("chunk_tokens", [None, 7])
def test_the_size_of_pieces_that_was_asked_for_leaves_trls_kernels_aside(
    chunk_tokens: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def fitting_heads(student: LazyLogits, teacher: LazyLogits, objective: Objective) -> None:
        seen.append(student.linear is not None)

    monkeypatch.setattr(trl_divergence, "fitting_heads", fitting_heads)
    train(tmp_path, tiny_llama(), tiny_llama(seed=1), count=2, max_steps=1, chunk_tokens=chunk_tokens)
    assert set(seen) == {chunk_tokens is None}


def test_families_with_logit_post_processing_distil_to_their_own_teacher(tmp_path: Path) -> None:
    gemma = tiny_config(Gemma2Config, final_logit_softcapping=1.5, initializer_range=0.5)
    torch.manual_seed(0)
    student, teacher, examples = Gemma2ForCausalLM(gemma), Gemma2ForCausalLM(gemma).eval(), labelled_examples(4)
    expected = hand_written_mean_loss(copy.deepcopy(student).eval(), teacher, examples, 1.0, 0.0).item()
    trainer = DistillationTrainer(
        model=student, teacher=teacher, args=config(tmp_path, max_steps=1), train_dataset=examples
    )
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(expected, rel=1e-4)


def test_a_student_equal_to_its_teacher_has_no_kl_and_stays(tmp_path: Path) -> None:
    teacher = tiny_llama()
    trainer = DistillationTrainer(
        model=copy.deepcopy(teacher),
        teacher=teacher,
        args=config(tmp_path, max_steps=2, optim="sgd", max_grad_norm=0.0),
        train_dataset=labelled_examples(8),
        eval_dataset=labelled_examples(4),
    )
    assert trainer.evaluate()["eval_kl"] == 0.0
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx([0.0, 0.0], abs=1e-6)  # a GPU rounds here and there
    for old, new in zip(teacher.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-7)


def test_training_brings_the_student_closer_and_leaves_the_teacher(tmp_path: Path) -> None:
    teacher = tiny_qwen3(attention_dropout=0.5)  # dropout in the teacher would be seen as KL noise
    before = copy.deepcopy(teacher.state_dict())
    trainer = DistillationTrainer(
        model=tiny_llama(),
        teacher=teacher,
        args=config(tmp_path, max_steps=30, logging_steps=30),
        train_dataset=labelled_examples(16),
        eval_dataset=labelled_examples(16),
    )
    start = trainer.evaluate()["eval_kl"]
    trainer.train()
    assert trainer.evaluate()["eval_kl"] < 0.7 * start
    assert not teacher.training
    assert all(torch.equal(before[name], weight) for name, weight in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
