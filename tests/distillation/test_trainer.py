# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The trainer against a hand-written loop, across accumulation, resumption, PEFT, checkpointing and dtypes."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_causal_lms import VOCABULARY, labelled_examples, tiny_llama, tiny_qwen3
from torch import Tensor, nn
from transformers import (
    DataCollatorWithFlattening,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaForCausalLM,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hf_tc.distillation import DistillationConfig, DistillationTrainer


def config(output_dir: Path, **changes: Any) -> DistillationConfig:
    defaults = {
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "max_steps": 4,
        "logging_steps": 1,
        "lr_scheduler_type": "linear",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 3,
        "chunk_tokens": 5,
    }
    return DistillationConfig(output_dir=str(output_dir), **{**defaults, **changes})


def train(output_dir: Path, student: Any = None, count: int = 32, **changes: Any) -> DistillationTrainer:
    trainer = DistillationTrainer(
        model=student or tiny_llama(),
        teacher=tiny_qwen3(),
        args=config(output_dir, **changes),
        train_dataset=labelled_examples(count),
    )
    trainer.train()
    return trainer


def logged(trainer: DistillationTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def hand_written_mean_loss(
    student: nn.Module, teacher: nn.Module, examples: list[dict[str, Tensor]], temperature: float, share: float
) -> Tensor:
    """Sum over labelled tokens of all examples, one example at a time, divided by their number."""
    total, tokens = torch.tensor(0.0), 0
    for example in examples:
        input_ids, labels = example["input_ids"][None], example["labels"]
        student_logits, teacher_logits = student(input_ids).logits[0], teacher(input_ids).logits[0].detach()
        for position in range(len(labels) - 1):
            if labels[position + 1] == -100:
                continue
            log_q = F.log_softmax(student_logits[position] / temperature, -1)
            log_p = F.log_softmax(teacher_logits[position] / temperature, -1)
            kl = temperature**2 * (log_p.exp() * (log_p - log_q)).sum()
            nll = F.cross_entropy(student_logits[position], labels[position + 1])
            total = total + (1 - share) * kl + share * nll
            tokens += 1
    return total / tokens


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
        cross_entropy_share=share,
    )
    expected = hand_written_mean_loss(before, teacher.eval(), examples, temperature, share)
    expected.backward()
    assert logged(trainer, "loss")[0] == pytest.approx(expected.item(), rel=1e-4)
    for old, new in zip(before.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.1 * old.grad, rtol=1e-4, atol=1e-6)


def test_gradient_accumulation_does_not_change_the_trajectory(tmp_path: Path) -> None:
    runs = [
        train(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size) for size in (8, 4, 2)
    ]
    reference = torch.cat([p.detach().flatten() for p in runs[0].model.parameters()])
    for run in runs[1:]:
        assert logged(run, "loss") == pytest.approx(logged(runs[0], "loss"), rel=1e-4)
        assert logged(run, "grad_norm") == pytest.approx(logged(runs[0], "grad_norm"), rel=1e-3)
        weights = torch.cat([p.detach().flatten() for p in run.model.parameters()])
        # Adam divides by the gradient's size, so rounding of tiny gradients moves single weights a little.
        assert (weights - reference).norm() < 1e-3 * (reference - _start()).norm()


def _start() -> Tensor:
    return torch.cat([p.detach().flatten() for p in tiny_llama().parameters()])


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def test_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    def new_trainer(output_dir: Path, callbacks: list[TrainerCallback] | None = None) -> DistillationTrainer:
        return DistillationTrainer(
            model=tiny_llama(attention_dropout=0.2),  # so that the random state matters
            teacher=tiny_qwen3(),
            args=config(output_dir, max_steps=6, save_strategy="steps", save_steps=3, per_device_train_batch_size=2),
            train_dataset=labelled_examples(8),  # four steps are an epoch: the resumed part reshuffles
            callbacks=callbacks,
        )

    straight = new_trainer(tmp_path / "straight")
    straight.train()
    first_half = new_trainer(tmp_path / "halves", [_StopAt(3)])
    first_half.train()
    assert first_half.state.global_step == 3
    set_seed(99)
    second_half = new_trainer(tmp_path / "halves")
    second_half.train(resume_from_checkpoint=str(tmp_path / "halves" / "checkpoint-3"))

    assert second_half.state.global_step == 6
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, second_half.model.state_dict()[name]), name
    assert not torch.equal(straight.model.lm_head.weight, first_half.model.lm_head.weight)


def test_evaluation_is_exact_over_the_tokens_of_the_dataset(tmp_path: Path) -> None:
    student, teacher, examples = tiny_llama(), tiny_qwen3(), labelled_examples(7)
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        args=config(tmp_path, per_device_eval_batch_size=3, temperature=2.0, cross_entropy_share=0.4),
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
    assert logged(trainer, "loss") == [0.0, 0.0]
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


@pytest.mark.parametrize("bf16", [False, True])
def test_gradient_checkpointing_does_not_change_the_loss(tmp_path: Path, bf16: bool) -> None:
    plain = train(tmp_path, max_steps=2, bf16=bf16)
    checkpointed = train(tmp_path, max_steps=2, bf16=bf16, gradient_checkpointing=True)
    assert checkpointed.model.is_gradient_checkpointing
    assert logged(checkpointed, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-6)
    assert all(parameter.dtype == torch.float32 for parameter in checkpointed.model.parameters())


def test_mixed_precision_is_used_and_close_to_fp32(tmp_path: Path) -> None:
    exact, mixed = train(tmp_path, max_steps=1), train(tmp_path, max_steps=1, bf16=True)
    assert logged(mixed, "loss") != logged(exact, "loss")
    assert logged(mixed, "loss") == pytest.approx(logged(exact, "loss"), rel=0.02)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_lora_student_learns_and_its_base_stays(tmp_path: Path, gradient_checkpointing: bool) -> None:
    peft = pytest.importorskip("peft")
    base = tiny_llama()
    before = copy.deepcopy(base.state_dict())
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "lm_head"])
    student = peft.get_peft_model(base, lora)
    trainer = train(tmp_path, student, count=4, max_steps=15, gradient_checkpointing=gradient_checkpointing)
    losses = logged(trainer, "loss")  # every step sees the same four examples
    assert losses[-1] < 0.9 * losses[0]
    head = student.base_model.model.lm_head
    assert torch.equal(head.base_layer.weight, before["lm_head.weight"])
    assert head.lora_B["default"].weight.abs().sum() > 0


def test_families_with_logit_post_processing_distil_to_their_own_teacher(tmp_path: Path) -> None:
    gemma = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=1.5,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    student, teacher, examples = Gemma2ForCausalLM(gemma), Gemma2ForCausalLM(gemma).eval(), labelled_examples(4)
    expected = hand_written_mean_loss(copy.deepcopy(student).eval(), teacher, examples, 1.0, 0.0).item()
    trainer = DistillationTrainer(
        model=student, teacher=teacher, args=config(tmp_path, max_steps=1), train_dataset=examples
    )
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(expected, rel=1e-4)


class _KeywordsOnly(LlamaForCausalLM):
    """A student whose forward does not name its inputs, as wrappers of another family's forward do."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def test_columns_are_kept_whatever_the_signature_of_the_student(tmp_path: Path) -> None:
    examples = [{**example, "text": "not a tensor"} for example in labelled_examples(4)]
    student = _KeywordsOnly(tiny_llama().config)
    student.load_state_dict(tiny_llama().state_dict())
    trainer = DistillationTrainer(
        model=student,
        teacher=tiny_qwen3(),
        args=config(tmp_path, max_steps=1),
        train_dataset=examples,
        eval_dataset=examples,
    )
    expected = DistillationTrainer(
        model=tiny_llama(), teacher=tiny_qwen3(), args=config(tmp_path), eval_dataset=labelled_examples(4)
    ).evaluate()
    assert trainer.evaluate()["eval_kl"] == pytest.approx(expected["eval_kl"], rel=1e-6)
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(expected["eval_kl"], rel=1e-4)


def test_packed_documents_equal_separate_ones(tmp_path: Path) -> None:
    examples = [{"input_ids": example["input_ids"][: 5 + index]} for index, example in enumerate(labelled_examples(4))]
    padded_with_labels = [
        {
            "input_ids": F.pad(example["input_ids"], (0, 12 - len(example["input_ids"])), value=0),
            "attention_mask": F.pad(torch.ones_like(example["input_ids"]), (0, 12 - len(example["input_ids"]))),
        }
        for example in examples
    ]
    arguments = config(tmp_path, per_device_eval_batch_size=4)

    def evaluated(dataset: Any, collator: Any = None) -> dict[str, float]:
        trainer = DistillationTrainer(
            model=tiny_llama(), teacher=tiny_qwen3(), args=arguments, data_collator=collator, eval_dataset=dataset
        )
        return trainer.evaluate()

    padded = evaluated(padded_with_labels)
    lists = [{"input_ids": example["input_ids"].tolist()} for example in examples]
    packed = evaluated(lists, DataCollatorWithFlattening())
    for name in ("eval_kl", "eval_student_perplexity", "eval_teacher_perplexity"):
        assert packed[name] == pytest.approx(padded[name], rel=1e-5)


def test_a_batch_without_labelled_tokens_does_no_harm(tmp_path: Path) -> None:
    examples = [{**example, "labels": torch.full_like(example["labels"], -100)} for example in labelled_examples(4)]
    trainer = DistillationTrainer(
        model=tiny_llama(), teacher=tiny_qwen3(), args=config(tmp_path, max_steps=1), train_dataset=examples
    )
    trainer.train()
    assert logged(trainer, "loss") == [0.0]
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    with pytest.raises(ValueError, match="No token of the evaluation dataset is labelled"):
        trainer.evaluate(examples)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_student_is_upcast_and_says_so(
    tmp_path: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    student, teacher = tiny_llama().to(dtype), tiny_qwen3().to(dtype)
    with caplog.at_level(logging.WARNING):
        trainer = train_with(student, teacher, tmp_path)
    assert "were upcast to float32" in caplog.text
    assert str(dtype).removeprefix("torch.") in caplog.text
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert all(parameter.dtype == dtype for parameter in trainer.teacher.parameters())
    assert math.isfinite(logged(trainer, "loss")[0])


def train_with(student: Any, teacher: Any, output_dir: Path, **changes: Any) -> DistillationTrainer:
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        args=config(output_dir, max_steps=1, **changes),
        train_dataset=labelled_examples(4),
    )
    trainer.train()
    return trainer


def test_teacher_from_a_folder_and_tags_and_cache_setting(tmp_path: Path) -> None:
    tiny_qwen3().save_pretrained(tmp_path / "teacher")
    trainer = train_with(tiny_llama(), tmp_path / "teacher", tmp_path / "out")
    trainer.save_model(str(tmp_path / "student"))
    saved = type(trainer.model).from_pretrained(tmp_path / "student")
    assert saved.config.use_cache is True
    assert {"hf_tc", "knowledge-distillation"} <= set(trainer.model.model_tags)


def test_shared_weights_are_refused(tmp_path: Path) -> None:
    teacher = tiny_llama()
    student = copy.deepcopy(teacher)
    student.model.norm.weight = nn.Parameter(teacher.model.norm.weight.data)  # another Parameter, the same memory
    with pytest.raises(ValueError, match=r"1 trainable parameters .*the first: model.norm.weight.*copy.deepcopy"):
        train_with(student, teacher, tmp_path)
    student.model.norm.weight.requires_grad_(False)
    train_with(student, teacher, tmp_path)


def test_vocabularies_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"logits for 61 words, the teacher for 70.*resize_token_embeddings"):
        train_with(tiny_llama(), tiny_qwen3(vocab_size=70), tmp_path)


def test_plain_training_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="DistillationConfig"):
        DistillationTrainer(
            model=tiny_llama(), teacher=tiny_qwen3(), args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        )
