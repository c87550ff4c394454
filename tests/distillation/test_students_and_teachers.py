# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which students and teachers the trainer takes, what becomes of them, and which it refuses."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from distillation_runs import logged, one_step, train
from library_names import checkpointing_argument
from tiny_causal_lms import tiny_llama, tiny_qwen3
from tokenizers import Tokenizer, models
from torch import nn
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3ForCausalLM, TrainingArguments

from hf_tc.distillation import DistillationTrainer


def small_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<eos>": 0, **{f"w{index}": index for index in range(1, 20)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_student_learns_and_its_base_stays(tmp_path: Path, checkpointing: bool) -> None:
    peft = pytest.importorskip("peft")
    base = tiny_llama()
    before = copy.deepcopy(base.state_dict())
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "lm_head"])
    student = peft.get_peft_model(base, lora)
    trainer = train(tmp_path, student, count=4, max_steps=15, **checkpointing_argument(checkpointing))
    losses = logged(trainer, "loss")  # every step sees the same four examples
    assert losses[-1] < 0.9 * losses[0]
    head = student.base_model.model.lm_head
    assert torch.equal(head.base_layer.weight, before["lm_head.weight"])
    assert head.lora_B["default"].weight.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_student_is_upcast_and_says_so(
    tmp_path: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    student, teacher = tiny_llama().to(dtype), tiny_qwen3().to(dtype)
    with caplog.at_level(logging.WARNING):
        trainer = one_step(student, teacher, tmp_path)
    assert "were upcast to float32" in caplog.text
    assert "Set bf16=True in DistillationConfig (--bf16) to compute" in caplog.text
    assert str(dtype).removeprefix("torch.") in caplog.text
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert all(parameter.dtype == dtype for parameter in trainer.teacher.parameters())
    assert math.isfinite(logged(trainer, "loss")[0])


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_model_that_zero3_has_in_shards_already_is_refused(tmp_path: Path, role: str) -> None:
    models = {"student": tiny_llama(), "teacher": tiny_qwen3()}
    models[role].lm_head.weight.ds_status = "as of DeepSpeed"
    with pytest.raises(ValueError, match=f"The weights of the {role} are in shards"):
        one_step(**models, output_dir=tmp_path)


def test_teacher_from_a_folder_and_tags_and_cache_setting(tmp_path: Path) -> None:
    tiny_qwen3().save_pretrained(tmp_path / "teacher")
    trainer = one_step(tiny_llama(), tmp_path / "teacher", tmp_path / "out")
    trainer.save_model(str(tmp_path / "student"))
    saved = type(trainer.model).from_pretrained(tmp_path / "student")
    assert saved.config.use_cache is True
    assert {"hf_tc", "knowledge-distillation"} <= set(trainer.model.model_tags)


@pytest.mark.parametrize("kind", [str, Path])
def test_both_models_by_name(tmp_path: Path, kind: Callable[..., Any]) -> None:
    for name, model in (("student", tiny_llama().bfloat16()), ("teacher", tiny_qwen3())):
        model.save_pretrained(tmp_path / name)
        small_tokenizer().save_pretrained(tmp_path / name)
    by_name = one_step(kind(tmp_path / "student"), kind(tmp_path / "teacher"), tmp_path / "out")
    student = LlamaForCausalLM.from_pretrained(tmp_path / "student", dtype="auto")
    expected = one_step(student, tiny_qwen3(), tmp_path / "expected")
    assert logged(by_name, "loss") == pytest.approx(logged(expected, "loss"), rel=1e-5)
    assert all(parameter.dtype == torch.float32 for parameter in by_name.model.parameters())
    by_name.save_model(str(tmp_path / "saved"))
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").get_vocab() == small_tokenizer().get_vocab()


def test_an_adapter_is_no_student_by_name(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a PEFT adapter of .*, not a student.*is_trainable=True"):
        one_step(str(tmp_path), tiny_qwen3(), tmp_path)


def test_a_teacher_with_an_adapter_is_the_adapted_one(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    tiny_qwen3().save_pretrained(tmp_path / "base")
    base = Qwen3ForCausalLM.from_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    teacher = peft.get_peft_model(base, lora)
    teacher.save_pretrained(tmp_path / "adapter")
    merged = copy.deepcopy(teacher).merge_and_unload()
    expected, plain = (logged(one_step(tiny_llama(), model, tmp_path), "loss")[0] for model in (merged, tiny_qwen3()))
    for given in (teacher, tmp_path / "adapter"):
        trainer = one_step(tiny_llama(), given, tmp_path)
        assert logged(trainer, "loss")[0] == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(plain, rel=1e-2)


@pytest.mark.parametrize(("wrap", "inner"), [(torch.compile, "_orig_mod"), (nn.DataParallel, "module")])
def test_wrapped_students_and_teachers_are_refused(tmp_path: Path, wrap: Callable[..., Any], inner: str) -> None:
    with pytest.raises(ValueError, match=rf"The student is wrapped, .* around Llama.*student\.{inner}"):
        one_step(wrap(tiny_llama()), tiny_qwen3(), tmp_path)
    with pytest.raises(ValueError, match=rf"The teacher is wrapped, .* around Qwen3.*teacher\.{inner}"):
        one_step(tiny_llama(), wrap(tiny_qwen3()), tmp_path)


def test_shared_weights_are_refused(tmp_path: Path) -> None:
    teacher = tiny_llama()
    student = copy.deepcopy(teacher)
    student.model.norm.weight = nn.Parameter(teacher.model.norm.weight.data)  # another Parameter, the same memory
    with pytest.raises(ValueError, match=r"1 trainable parameters .*the first: model.norm.weight.*copy.deepcopy"):
        one_step(student, teacher, tmp_path)
    student.model.norm.weight.requires_grad_(False)
    one_step(student, teacher, tmp_path)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, role: str, value: float) -> None:
    both = {"student": tiny_llama(), "teacher": tiny_qwen3()}
    both[role].model.layers[1].mlp.down_proj.weight.data[2, 3:5] = value
    named = rf"The {role}'s model\.layers\.1\.mlp\.down_proj\.weight has 2 of \d+ values that are NaN or infinite"
    with pytest.raises(ValueError, match=named):
        one_step(both["student"], both["teacher"], tmp_path)


def test_an_adapter_that_is_no_number_is_named(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    student = peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules=["q_proj"]))
    student.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"].weight.data[0, 0] = math.nan
    with pytest.raises(
        ValueError, match=r"The student's .*layers\.0\.self_attn\.q_proj\.lora_A\.default\.weight has 1 "
    ):
        one_step(student, tiny_qwen3(), tmp_path)


def test_vocabularies_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"logits for 61 tokens, the teacher for 70.*resize_token_embeddings"):
        one_step(tiny_llama(), tiny_qwen3(vocab_size=70), tmp_path)


def test_plain_training_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="DistillationConfig"):
        DistillationTrainer(
            model=tiny_llama(), teacher=tiny_qwen3(), args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        )
