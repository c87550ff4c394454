# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Phase 3: the mixers together, never worse, and nothing else touched."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import letter_teacher
from planted import random_blocks

from hf_tc.alignment import joint as joint_alignment
from hf_tc.alignment import joint_progress
from hf_tc.config import AlignmentConfig, ConversionConfig, JointConfig
from hf_tc.conversion import run
from hf_tc.conversion.checkpoint import PROGRESS_FILE, ConversionCheckpoint
from hf_tc.conversion.layer_by_layer import fit_layers, load_stage
from hf_tc.conversion.task import ConversionTask
from hf_tc.evaluation.perplexity import evaluate_blocks
from hf_tc.selection import LayerSelection
from hf_tc.teachers.new_student import mixer_of

RETAINED = LayerSelection("list", [0])


def task_of(
    folder: Path, steps: int = 4, dtype: torch.dtype = torch.float32, share_weights: bool = False
) -> ConversionTask:
    teacher = letter_teacher("qwen3").to(dtype).eval()
    blocks = random_blocks(9, 24, 0) % teacher.config.vocab_size
    joint = JointConfig(steps, batch_tokens=512)
    settings = ConversionConfig(blocks.numel(), 24, 0.2, alignment=AlignmentConfig(steps=2), joint=joint)
    return ConversionTask(teacher, blocks, settings, folder, share_weights)


def aligned(task: ConversionTask) -> ConversionCheckpoint:
    """Brings the student up to its layers' own alignment."""
    checkpoint = run.begin(task, RETAINED.retained_layers)
    fit_layers(task, task.settings, checkpoint)
    load_stage(task.student, checkpoint, "aligned")
    return checkpoint


def mixers_of(task: ConversionTask) -> list[torch.nn.Module]:
    return [mixer_of(task.student, layer) for layer in task.student.config.linear_layers]


def kl(task: ConversionTask) -> float:
    value = evaluate_blocks(task.student, task.held_out_blocks, task.teacher).kl
    assert value is not None
    return value


def test_the_student_comes_closer_and_only_its_mixers_move(tmp_path: Path) -> None:
    task = task_of(tmp_path, steps=30)
    checkpoint = aligned(task)
    student = task.student
    before, kl_before = copy.deepcopy(student.state_dict()), kl(task)
    run.joint_stage(task, checkpoint, run.joint_budget(task))
    assert kl(task) < kl_before
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    mixers = {id(parameter) for mixer in mixers_of(task) for parameter in mixer.parameters()}
    assert moved == {name for name, parameter in student.named_parameters() if id(parameter) in mixers}
    assert all(parameter.grad is None and parameter.requires_grad for parameter in student.parameters())


def test_the_routers_loss_does_not_move_the_mixers(tmp_path: Path) -> None:
    experts = {"num_local_experts": 4, "router_aux_loss_coef": 100.0, "sliding_window": None}
    results = []
    for balances in (True, False):
        teacher = letter_teacher("mixtral", **experts, output_router_logits=balances).eval()
        blocks = random_blocks(9, 24, 0) % teacher.config.vocab_size
        settings = ConversionConfig(blocks.numel(), 24, 0.2, AlignmentConfig(steps=0), JointConfig(2))
        task = ConversionTask(teacher, blocks, settings, tmp_path / str(balances))
        results.append(run.convert(task, RETAINED))
        assert results[-1].config.text_config.output_router_logits == balances
    states = [student.state_dict() for student in results]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_never_worse_than_it_came(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    aligned(task)
    before = copy.deepcopy(task.student.state_dict())
    wild = AlignmentConfig(2, batch_tokens=48, gate_learning_rate=30.0, teacher_step=300.0)
    blocks = task.fitted_blocks, task.held_out_blocks
    first, last = joint_alignment.align_jointly(task.student, task.teacher, mixers_of(task), *blocks, wild, seed=0)
    assert first == last
    assert all(torch.equal(value, before[name]) for name, value in task.student.state_dict().items())


def test_a_bfloat16_student_keeps_its_dtype_and_the_teacher_its_weights(tmp_path: Path) -> None:
    task = task_of(tmp_path, dtype=torch.bfloat16, share_weights=True)
    teacher = copy.deepcopy(task.teacher.state_dict())
    student = run.convert(task, RETAINED)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.bfloat16}
    assert all(torch.equal(value, teacher[name]) for name, value in task.teacher.state_dict().items())


def test_the_stage_is_measured_and_not_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run.convert(task_of(tmp_path), RETAINED)
    assert list(first.conversion_report.perplexity) == ["teacher", "copied", "closed_form", "aligned", "joint"]
    assert first.conversion_report.joint_steps == 4
    monkeypatch.setattr(run, "align_jointly", lambda *args: pytest.fail("aligned jointly again"))
    again = run.convert(task_of(tmp_path), RETAINED)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


def test_the_same_run_gives_the_same_student(tmp_path: Path) -> None:
    first, again = (run.convert(task_of(tmp_path / name), RETAINED).state_dict() for name in "ab")
    assert all(torch.equal(value, again[name]) for name, value in first.items())


@pytest.mark.parametrize("place", ["is_dispatched", "is_8bit"])
def test_teachers_elsewhere_are_refused_before_any_work(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_alignment, place, lambda teacher: True)
    with pytest.raises(ValueError, match=r"one device.*joint_steps to 0"):
        task_of(tmp_path)
    task_of(tmp_path, steps=0)


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_progress, "SAVED_EVERY", 0.0)
    whole = run.convert(task_of(tmp_path / "whole", steps=20), RETAINED).state_dict()
    see, looks = joint_alignment.Best.see, []

    def die_at_the_sixth(best: joint_alignment.Best, distance: float, **about: bool) -> None:
        looks.append(distance)
        if len(looks) == 6:
            raise KeyboardInterrupt
        see(best, distance, **about)

    monkeypatch.setattr(joint_alignment.Best, "see", die_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        run.convert(task_of(tmp_path / "parts", steps=20), RETAINED)
    file = tmp_path / "parts" / PROGRESS_FILE
    assert file.exists()
    parts = run.convert(task_of(tmp_path / "parts", steps=20), RETAINED).state_dict()
    assert len(looks) == 1 + 4 + 1 + 16  # four looks of 20 were done, and are not done again
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert not file.exists()


def test_a_torn_or_foreign_file_is_not_gone_on_from(tmp_path: Path) -> None:
    file = joint_progress.ProgressFile(tmp_path / "file", {"seed": 0})
    best, weights, state = {"x": torch.zeros(3)}, {"x": torch.ones(3)}, {"0/step": torch.tensor(4.0)}
    file.write(joint_progress.Progress(4, 1, 2.0, 1.5, best, weights, state))
    read = file.read()
    assert read is not None
    assert (read.step, read.not_better, read.before, read.best_kl) == (4, 1, 2.0, 1.5)
    assert (read.best["x"].sum(), read.weights["x"].sum(), read.optimizer["0/step"]) == (0, 3, 4)
    assert joint_progress.ProgressFile(tmp_path / "file", {"seed": 1}).read() is None
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-2])
    assert file.read() is None


@pytest.mark.parametrize(("later", "steps"), [(0.5, 20), (3.0, 13)])
def test_a_run_does_not_end_while_its_steps_are_large(
    later: float, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def look(distance: Any, student: Any) -> float:
        looks.append(1.0 if not looks else 2.0 if len(looks) < 12 else later - len(looks) / 100)
        return looks[-1]

    monkeypatch.setattr(joint_alignment.HeldOutDistance, "__call__", look)
    run.convert(task_of(tmp_path, steps=20), RETAINED)
    assert len(looks) == 1 + steps


def test_a_run_ends_when_it_comes_no_closer() -> None:
    best = joint_alignment.Best(torch.nn.ModuleList([torch.nn.Linear(1, 1)]))
    for distance in (1.0, 0.5, 0.6, 0.7, 0.6):
        best.see(distance)
        assert not best.is_past
    best.see(0.55)
    assert best.is_past
    assert (best.before, best.distance) == (1.0, 0.5)
