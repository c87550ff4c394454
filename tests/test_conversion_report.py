# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a conversion reports of its layers, and of the models between its stages."""

import math
from pathlib import Path

import pytest
from conversion_inputs import letter_teacher
from layer_conversion import BLOCKS, convert
from planted import captured_layer, random_blocks

from hf_tc.convert_layers import mixer_of
from hf_tc.evaluation import perplexity

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
