# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a conversion reports of its layers, and of the models between its stages."""

import math
import shutil
from pathlib import Path

import pytest
from conversion_inputs import letter_teacher
from layer_conversion import BLOCKS, convert
from planted import captured_layer, random_blocks
from transformers import AutoModelForCausalLM

from hf_tc.evaluation.perplexity import perplexity
from hf_tc.report.page import report_page
from hf_tc.teachers.new_student import mixer_of

STAGES = ["teacher", "copied", "closed_form", "aligned"]


def test_report_has_every_layer_and_every_quantity(tmp_path: Path) -> None:
    student = convert(tmp_path)
    report = student.conversion_report
    assert (report.retained_layers, report.linear_layers) == ([0], [1, 2])
    assert [row.layer for row in report.layers] == [1, 2]
    assert (report.calibration_tokens, report.alignment_steps, report.seed) == (256, 2, 0)
    assert report.versions.keys() == {"hf_tc", "torch", "transformers"}
    for row in report.layers:
        assert 0 < row.mean_attention_distance < 31
        assert 0 < row.attention_entropy < math.log(32)
        assert row.timescale_tokens >= 0.5
        assert 0 < row.beta < 1
        assert row.value_scale > 0
        assert row.output_gate > 0
        assert 0 < row.error_aligned <= row.error_closed_form < row.error_copied
        assert row.seconds > 0
        assert sum(row.head_betas) / 4 == pytest.approx(row.beta)
        assert sum(row.head_distances) / 4 == pytest.approx(row.mean_attention_distance)
        assert min(row.head_half_lives) <= row.timescale_tokens <= max(row.head_half_lives)
    assert student.config.calibration == report.provenance
    assert report.seconds >= sum(row.seconds for row in report.layers)
    assert list(report.stage_seconds) == ["build", "fingerprint", "evaluate", "capture", "solve", "align"]
    assert min(report.stage_seconds.values()) > 0
    assert sum(report.stage_seconds.values()) <= report.seconds


def test_reported_beta_and_half_life_are_the_means_of_the_closed_form_over_the_text(tmp_path: Path) -> None:
    student, teacher = convert(tmp_path, steps=0), letter_teacher()
    text = BLOCKS[:-1]  # the last block is held out
    for row in student.conversion_report.layers:
        mixer, x = mixer_of(student, row.layer), captured_layer(teacher, text, row.layer).attn_input
        assert row.head_betas == pytest.approx(mixer.beta(x).mean((0, 1)).tolist(), rel=1e-4)
        half_lives = -math.log(2) / mixer.log_decay(x).mean((0, 1))
        assert row.head_half_lives == pytest.approx(half_lives.tolist(), rel=1e-3)
        assert row.beta == pytest.approx(sum(row.head_betas) / len(row.head_betas))
        assert row.timescale_tokens == pytest.approx(half_lives.median().item(), rel=1e-3)


def test_perplexities_are_those_of_the_models(tmp_path: Path) -> None:
    teacher, text = letter_teacher(), random_blocks(3, 32, seed=9)
    student = convert(tmp_path, teacher=teacher, evaluation_blocks=text)
    report = student.conversion_report
    assert list(report.perplexity) == STAGES
    assert report.perplexity_tokens == 3 * 31
    assert report.perplexity["teacher"] == pytest.approx(perplexity(teacher, text))
    assert report.perplexity["aligned"] == pytest.approx(perplexity(student, text))
    closed_form = convert(tmp_path / "closed", steps=0, evaluation_blocks=text)
    assert report.perplexity["closed_form"] == pytest.approx(perplexity(closed_form, text))
    assert len(set(report.perplexity.values())) == 4


def test_without_alignment_there_is_no_aligned_stage(tmp_path: Path) -> None:
    report = convert(tmp_path, steps=0).conversion_report
    assert list(report.perplexity) == STAGES[:3]
    assert report.error_stages == ["copied", "closed_form"]
    assert all(math.isnan(row.error_aligned) for row in report.layers)
    assert "aligned" not in report_page(report.to_dict(), {}, layer_count=3)


def test_a_converted_student_has_one_card_however_often_it_is_loaded_and_saved(tmp_path: Path) -> None:
    student = convert(tmp_path / "work")
    report = student.conversion_report
    student.save_pretrained(tmp_path / "first", repo_id="some/model")
    for source, target in (("first", "second"), ("second", "third")):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / source)
        assert loaded.conversion_report == report
        loaded.save_pretrained(tmp_path / target, repo_id="some/model")
    first, second, third = ((tmp_path / name / "README.md").read_text() for name in ("first", "second", "third"))
    assert first == second == third
    share = report.perplexity["aligned"] / report.perplexity["teacher"]
    assert f"the student (aligned) has {share:.3g} times the teacher's perplexity" in first
    # The report lost, as by copying weights and configuration alone: the configuration knows the perplexities.
    lost = shutil.copytree(
        tmp_path / "third", tmp_path / "lost", ignore=shutil.ignore_patterns("conversion_report.json")
    )
    AutoModelForCausalLM.from_pretrained(lost).save_pretrained(tmp_path / "again")
    assert f"has {share:.3g} times the teacher's perplexity" in (tmp_path / "again" / "README.md").read_text()
