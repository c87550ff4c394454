# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Teachers that are elsewhere than the student, or in other precision; those in shards are in test_ddp.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from distillation_runs import config, logged
from tiny_causal_lms import labelled_examples, tiny_llama, tiny_qwen3
from transformers import AutoModelForCausalLM

from hf_tc.distillation import DistillationTrainer
from hf_tc.distillation.teacher_placement import load_distillation_teacher
from hf_tc.teachers.offloading import is_8bit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher")
    tiny_qwen3().save_pretrained(path)
    return path


def losses(output: Path, teacher: Any, **changes: Any) -> tuple[list[float], DistillationTrainer]:
    data = labelled_examples(8)
    arguments = config(output, max_steps=3, **changes)
    trainer = DistillationTrainer(tiny_llama(), teacher, arguments, train_dataset=data, eval_dataset=data)
    evaluated = trainer.evaluate()["eval_kl"]
    trainer.train()
    return [evaluated, *logged(trainer, "loss")], trainer


@pytest.mark.parametrize("where", ["disk", "partly on disk", "teacher_device_map"])
def test_a_teacher_that_is_elsewhere_teaches_the_same(where: str, folder: Path, tmp_path: Path) -> None:
    expected, _ = losses(tmp_path, tiny_qwen3())
    if where == "teacher_device_map":
        found, _ = losses(tmp_path, folder, teacher_device_map="cpu")
    else:
        parts = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")
        on_disk = parts if where == "disk" else parts[2:]
        placed = {part: "disk" if part in on_disk else "cpu" for part in parts}
        teacher = AutoModelForCausalLM.from_pretrained(folder, device_map=placed, offload_folder=tmp_path / "offloaded")
        found, trainer = losses(tmp_path, teacher)
        assert trainer.teacher.lm_head.weight.is_meta
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
def test_a_teacher_in_8_bits_teaches_nearly_the_same(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    expected, _ = losses(tmp_path, tiny_qwen3())
    found, trainer = losses(tmp_path, str(folder), teacher_in_8bit=True, teacher_device_map="cpu")
    assert is_8bit(trainer.teacher)
    assert found == pytest.approx(expected, rel=0.1)
    assert found != pytest.approx(expected, rel=1e-5)


def test_8_bits_of_a_loaded_teacher_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(
        ValueError, match="teacher_device_map and teacher_in_8bit are for a teacher given by name, and a Q"
    ):
        losses(tmp_path, tiny_qwen3(), teacher_in_8bit=True, teacher_device_map="cpu")

    with pytest.raises(ValueError, match=r"^teacher_in_8bit is for a teacher given by name, and a Q.* Leave it out"):
        losses(tmp_path, tiny_qwen3(), teacher_in_8bit=True)


def test_a_placement_that_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^teacher_device_map is for a teacher given by name, and there is no teacher"
    ):
        losses(tmp_path, None, teacher_device_map="cpu")

    class OfTwoProcesses:
        teacher_device_map, teacher_in_8bit, world_size = "auto", False, 2

    with pytest.raises(ValueError, match="each of 2 processes would put its teacher on the same devices"):
        load_distillation_teacher(folder, OfTwoProcesses())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_a_teacher_on_another_gpu_teaches_the_same(folder: Path, tmp_path: Path) -> None:
    expected, _ = losses(tmp_path, tiny_qwen3(), use_cpu=False)
    found, trainer = losses(tmp_path, folder, use_cpu=False, teacher_device_map="cuda:1")
    assert trainer.teacher.device == torch.device("cuda:1")
    assert found == pytest.approx(expected, rel=1e-4)
