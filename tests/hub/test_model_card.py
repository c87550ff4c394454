# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The model card shows what the report holds and nothing else."""

import math
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from student_folders import tiny_report, tiny_student

import hf_tc
from hf_tc.hub import check_student_folder, render_card, save_student


def test_card_shows_the_real_figures_and_no_others(saved: Path) -> None:
    card = ModelCard.load(saved / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.base_model == "some-org/some-teacher"
    assert card.data.pipeline_tag == "text-generation"
    assert {"hf_tc", "gated-deltanet"} <= set(card.data.tags)
    assert card.data.license is None
    text = card.text
    row = "| 2 | 31 | 43.5 | 0.321 | 0.987 | 0.543 | 1.5 |"
    for shown in (row, "| closed form | 30.00 | 1.50 |", "65,536", "torch 2.13.0", "(plot_errors.png)"):
        assert shown in text
    for unknown in ("aligned |", "| nan", "None", "{{"):
        assert unknown not in text
    usage = text.split("```python\n")[1].split("```")[0].strip().splitlines()
    assert len(usage) == 6
    assert 'model_id = "complete-student"' in usage


def test_card_without_a_report_invents_nothing() -> None:
    text = render_card(tiny_student().config, {}, "some/model", ["my-tag"])
    assert "my-tag" in ModelCard(text).data.tags
    assert "base_model" not in text
    for section in ("## Layer by layer", "## Perplexity", "## How to make it again"):
        assert section not in text
    assert "| Gated DeltaNet | 1, 2 |" in text


def test_card_takes_the_licence_of_a_local_teacher_and_hides_its_path(tmp_path: Path) -> None:
    teacher = tmp_path / "private-place" / "my-teacher"
    teacher.mkdir(parents=True)
    (teacher / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A teacher\n")
    text = render_card(tiny_student().config, {"teacher": str(teacher)}, "some/model")
    assert ModelCard(text).data.license == "apache-2.0"
    assert "my-teacher" in text
    assert "private-place" not in text


def test_figures_of_the_card_follow_the_report(tmp_path: Path) -> None:
    student = tiny_student()
    save_student(student, tmp_path, report=tiny_report())
    report = tiny_report()
    report.layers[0].error_aligned = 0.125
    report.perplexity["aligned"] = math.pi
    save_student(student, tmp_path, report=report)
    text = (tmp_path / "README.md").read_text()
    assert "| 1 | 31 | 42.5 | 0.321 | 0.987 | 0.543 | 0.125 | 1.5 |" in text
    assert "| aligned | 3.14 | 0.16 |" in text


def test_card_in_the_folder_survives_a_save_without_a_report(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my own words")
    tiny_student().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own words"


def test_a_classifier_gets_code_but_no_card_of_a_language_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = hf_tc.modeling.HybridGDNForSequenceClassification(tiny_student().config)
    classifier.save_pretrained(tmp_path)
    check_student_folder(tmp_path)
    assert not (tmp_path / "README.md").exists()
