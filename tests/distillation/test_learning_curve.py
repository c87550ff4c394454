# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The student measured while it is trained: when, on what, and what its report and card tell of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from distillation_runs import config, logged
from student_folders import letter_tokenizer, save_student, tiny_report, tiny_student
from transformers import AutoModelForCausalLM, TrainerCallback

from hf_tc import LearningCurve
from hf_tc.data.token_blocks import CalibrationDataError, token_blocks
from hf_tc.distillation import DistillationTrainer
from hf_tc.distillation.learning_curve import curve_of
from hf_tc.evaluation.evaluate import evaluate
from hf_tc.evaluation.perplexity import evaluate_blocks

TEXTS = [{"text": "abcdefghijklmnopqrstuvwxyz" * 4}] * 8
HELD_OUT = ["Take heed of hasty folk, said Jim, and be of good cheer. " * 12]


def trained_student(folder: Path) -> Any:
    report = tiny_report()
    report.held_out_tokens = torch.randint(4, 60, (3, 24), generator=torch.Generator().manual_seed(0)).tolist()
    save_student(tiny_student(), folder, letter_tokenizer(), report)
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")


def trainer_of(folder: Path, student: Any, **changes: Any) -> DistillationTrainer:
    settings = {"max_steps": 8, "sequence_length": 16, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    teacher = tiny_student(seed=1)
    arguments = config(folder, **{**settings, **changes})
    return DistillationTrainer(student, teacher, arguments, train_dataset=TEXTS, processing_class=letter_tokenizer())


def test_it_measures_before_and_at_token_counts_that_double(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path / "work", trained_student(tmp_path / "student"))
    before = evaluate(copy.deepcopy(trainer.model), letter_tokenizer(), HELD_OUT, trainer.teacher, sequence_length=16)
    trainer.add_callback(LearningCurve(trainer, HELD_OUT, evaluations=3))
    trainer.train()
    points = curve_of(trainer.state.log_history)
    assert [point["step"] for point in points] == [0, 2, 4, 8]
    assert [point["tokens"] for point in points] == [0, 64, 128, 256]
    after = evaluate(trainer.model, letter_tokenizer(), HELD_OUT, trainer.teacher, sequence_length=16)
    for point, expected in ((points[0], before), (points[-1], after)):
        assert point["kl"] == pytest.approx(expected.kl, rel=1e-4)
        assert point["perplexity"] == pytest.approx(expected.perplexity, rel=1e-4)
        assert point["teacher_perplexity"] == pytest.approx(expected.teacher_perplexity, rel=1e-4)
        assert 0 <= point["lookup_accuracy"] <= 1
    assert points[-1]["kl"] != pytest.approx(points[0]["kl"], rel=1e-3)
    assert all(rate > 0 for rate in logged(trainer, "tokens_per_second"))
    assert len(logged(trainer, "tokens_per_second")) == 8


def test_measuring_changes_no_weight_and_a_resumed_run_has_the_same_curve(tmp_path: Path) -> None:
    def run(name: str, evaluations: int, dies_at: int | None = None, **options: Any) -> DistillationTrainer:
        saving = {"save_strategy": "steps", "save_steps": 3}
        trainer = trainer_of(tmp_path / name, trained_student(tmp_path / "student"), **saving)
        if evaluations:
            trainer.add_callback(LearningCurve(trainer, evaluations=evaluations))

        class Dies(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == dies_at:
                    raise KeyboardInterrupt

        trainer.add_callback(Dies())
        if dies_at is None:
            trainer.train(**options)
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        return trainer

    whole, plain = run("whole", 4), run("plain", 0)
    run("parts", 4, dies_at=5)
    resumed = run("parts", 4, resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-3"))
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, plain.model.state_dict()[name]), name
    assert curve_of(resumed.state.log_history) == curve_of(whole.state.log_history)


def test_report_and_card_tell_the_run_and_are_measured_on_the_conversions_text(tmp_path: Path) -> None:
    student = trained_student(tmp_path / "student")
    trainer = trainer_of(tmp_path / "work", student)
    curve = LearningCurve(trainer, evaluations=2)
    trainer.add_callback(curve)
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    report = loaded.conversion_report
    assert report.held_out_tokens == student.conversion_report.held_out_tokens
    expected = evaluate_blocks(loaded, torch.tensor(report.held_out_tokens), trainer.teacher)
    assert report.evaluation["figures"]["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
    (run,) = report.distillations
    assert (run["tokens"], run["steps"], run["data"], run["learning_rate"]) == (256, 8, "a list", 1e-3)
    assert run["hardware"].startswith("1 x cpu")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{expected.perplexity:,.2f} against {expected.teacher_perplexity:,.2f}" in card
    assert "1.5 times the teacher's perplexity" not in card
    for told in ("| learning rate | 0.001 |", "| tokens | 256 |", "(plot_distillation.png)", "| tokens | perplexity |"):
        assert told in card
    assert (tmp_path / "out" / "plot_distillation.png").is_file()

    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.mul_(1.01)
    loaded.save_pretrained(tmp_path / "later")
    card = (tmp_path / "later" / "README.md").read_text()
    assert "| learning rate | 0.001 |" in card  # which stays true
    for absent in ("plot_distillation", "| tokens | perplexity |", "against"):
        assert absent not in card
    assert not (tmp_path / "later" / "plot_distillation.png").exists()


def test_a_second_run_stands_beside_the_first(tmp_path: Path) -> None:
    student = trained_student(tmp_path / "student")
    for name in ("one", "two"):
        trainer = trainer_of(tmp_path / name, student, max_steps=2)
        trainer.train()
        trainer.save_model(str(tmp_path / name))
        student = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="float32")
    card = (tmp_path / "two" / "README.md").read_text()
    assert "|  | run 1 | run 2 |" in card
    assert "| steps | 2 | 2 |" in card


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path / "work", tiny_student())
    with pytest.raises(ValueError, match="evaluations is 0"):
        LearningCurve(trainer, evaluations=0)
    trainer.processing_class = None
    with pytest.raises(ValueError, match="needs a tokenizer"):
        LearningCurve(trainer)


def test_text_that_is_trained_on_is_refused_as_held_out_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = TEXTS[:1]
    mixed = [{"text": "".join(HELD_OUT) + TEXTS[0]["text"]}]
    trainer = trainer_of(tmp_path / "work", trained_student(tmp_path / "student"))
    for text in (mixed, texts):
        with pytest.raises(
            CalibrationDataError, match=r"% of the evaluation text also stands in the training text, 1%"
        ):
            LearningCurve(trainer, text)
    datasets = pytest.importorskip("datasets")
    blocks = token_blocks(HELD_OUT, letter_tokenizer(), 16)
    # Tokens, as a teacher's cache has them.
    trainer.train_dataset = datasets.Dataset.from_dict({"input_ids": blocks.tolist()})
    LearningCurve(trainer, texts)
    with pytest.raises(CalibrationDataError, match=r"100\.0% of the evaluation text .* Evaluate on other text"):
        LearningCurve(trainer, HELD_OUT)
    trainer.train_dataset = trainer.train_dataset.to_iterable_dataset()
    LearningCurve(trainer, HELD_OUT)  # a stream is not read for it
    rows = trainer.model.conversion_report.held_out_tokens
    trainer.train_dataset = datasets.Dataset.from_dict({"input_ids": rows[1:]})
    caplog.clear()
    LearningCurve(trainer)
    assert "66.7% of the held-out text of the conversion also stands in the training text" in caplog.text
