# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The report as Markdown: what is known is shown, pictures that exist are shown, and nothing else."""

import re
from pathlib import Path

import pytest
from student_folders import tiny_report

from hf_tc.report.page import (
    MANY_LAYERS,
    marked_as_changed,
    report_page,
    report_sections,
    teacher_name,
    without_figures,
)
from hf_tc.report.plots import save_conversion_plots
from hf_tc.report.records import ConversionReport
from hf_tc.selection import LayerSelection


def full_report() -> ConversionReport:
    report = tiny_report()
    for row in report.layers:
        row.error_aligned = 0.1 * row.layer
        row.head_distances, row.head_half_lives, row.head_betas = [10.0, 40.0], [20.0, 30.0], [0.1, 0.3]
    report.perplexity |= {"aligned": 25.0, "joint": 22.0}
    report.selection = LayerSelection("kl", [0, 3], [3, 0, 1, 2], [0.4, 0.3, 0.2, 0.1], "nats of harm", 5, 4096, 75.0)
    report.arguments = {"calibration_data": "books.txt", "retained_layers": 0.5, "seed": 7}
    report.fingerprints, report.device = {"teacher": "12ab", "blocks": "34cd"}, "cpu, 2 threads"
    return report


def headings(text: str) -> list[str]:
    return re.findall(r"(?m)^##? (.*)$", text)


def test_the_page_has_every_section_picture_and_figure(tmp_path: Path) -> None:
    report = full_report()
    plots = save_conversion_plots(report, tmp_path)
    text = report_page(report.to_dict(), plots, layer_count=4)
    assert headings(text) == [
        "How some-teacher became a hybrid",
        "Perplexity",
        "Layer by layer",
        "What heads look at, and what they keep",
        "Which layers keep attention",
        "How to make it again",
    ]
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert sorted(pictures) == sorted(path.name for path in tmp_path.iterdir())
    assert len(pictures) == 5
    for shown in (
        "2 of the 4 attention layers of `some-org/some-teacher` became Gated DeltaNet, calibrated on 65,536 tokens of",
        "the student (joint) has 1.1 times the teacher's perplexity: 22.00 against 20.00",
        "Layer 2 lost the most of what its attention said (0.200), layer 1 the least (0.100)",
        "| closed form | 30.00 | 1.50 |\n| aligned | 25.00 | 1.25 |\n| joint | 22.00 | 1.10 |",
        "| layer | distance | half-life | beta | error, copied | error, closed form | error, aligned | seconds |",
        "| 2 | 31 | 43.5 | 0.321 | 0.987 | 0.543 | 0.2 | 1.5 |",
        "Every point is one of 4 heads. Half of them look back further than 25 tokens",
        "50% have a half-life below their mean distance. Half of the heads write with a beta above 0.2.",
        "Retained: 0, 3; policy `kl`. Scores are nats of harm. Finding them took 5 forward passes over 4,096 tokens",
        "    'some-org/some-teacher',\n    calibration_data='books.txt',\n    retained_layers=0.5,\n    seed=7,\n)",
        "- seed: 7\n- time of all layers: 3.0 s\n- device: cpu, 2 threads\n- versions: torch 2.13.0\n",
        "- fingerprints: teacher `12ab`, blocks `34cd`",
    ):
        assert shown in text
    assert "\n\n\n" not in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("weights", "distilled", "told"),
    [
        ({"bfloat16": "1"}, {}, "Since then the student was trained further or changed in another way."),
        ({}, {}, "It was not recorded whether the weights are still those that the conversion gave it."),
        (
            {"bfloat16": "1"},
            {"distilled_tokens": 1_000_000, "distilled_steps": 1_500},
            "Then the student was distilled on 1,000,000 tokens in 1,500 steps.",
        ),
    ],
)
def test_figures_of_other_weights_are_called_so_or_left_out(
    weights: dict[str, str], distilled: dict[str, int], told: str
) -> None:
    known = {**full_report().to_dict(), "student_weights": weights, **distilled}
    page = report_page(marked_as_changed(known), {}, layer_count=4)
    assert f"{told} The figures here are from before.\n" in page
    assert "| joint | 22.00 | 1.10 |" in page
    card = report_sections(without_figures(known, has_page=True), {}, layer_count=4)
    place = "those of the conversion are in [conversion_report.md](conversion_report.md)."
    assert f"{told} This card has no figures of it; {place}\n" in card
    assert headings(card) == ["Which layers keep attention", "How it was converted"]
    for figure in ("22.00", "1.1 times", "0.200", "0.321", "| layer"):
        assert figure in page
        assert figure not in card
    assert "calibrated on 65,536 tokens" in card
    for text in (page, card):
        assert ("- distillation tokens: 1,000,000\n- distillation steps: 1,500\n" in text) == bool(distilled)


def test_the_last_stage_is_the_last_of_the_conversion_whatever_order_the_stages_come_in() -> None:
    report = full_report().to_dict()
    report["perplexity"] = dict(sorted(report["perplexity"].items()))  # as a saved configuration has them
    text = report_sections(report, {}, layer_count=4)
    assert "the student (joint) has 1.1 times the teacher's perplexity: 22.00 against 20.00" in text
    assert re.findall(r"(?m)^\| (teacher|copied|closed form|aligned|joint) \|", text) == [
        "teacher",
        "copied",
        "closed form",
        "aligned",
        "joint",
    ]


def test_the_code_of_the_page_is_python() -> None:
    text = report_page(full_report().to_dict(), {}, layer_count=4)
    compile(text.split("```python\n")[1].split("```")[0], "page", "exec")


def test_what_is_not_known_is_left_out() -> None:
    assert report_sections({}, {}, layer_count=4) == ""
    text = report_sections({"perplexity": {"teacher": 20.0, "aligned": None}, "seed": 3}, {}, layer_count=4)
    assert headings(text) == ["Perplexity", "How to make it again"]
    assert "aligned" not in text
    assert "![" not in text


@pytest.mark.parametrize("count", [MANY_LAYERS, MANY_LAYERS + 1])
def test_a_long_table_is_folded(count: int) -> None:
    report = full_report()
    report.layers = report.layers[:1] * count
    text = report_sections(report.to_dict(), {}, layer_count=count)
    assert (f"<details><summary>All {count} layers in figures</summary>\n\n| layer |" in text) == (count > MANY_LAYERS)
    assert ("|\n\n</details>" in text) == (count > MANY_LAYERS)


def test_the_place_of_a_local_teacher_is_not_published(tmp_path: Path) -> None:
    report = full_report()
    report.teacher = str(tmp_path / "my-teacher")
    text = report_page(report.to_dict(), {}, layer_count=4)
    assert "my-teacher" in text
    assert str(tmp_path) not in text
    assert teacher_name({"teacher": "org/name"}) == "org/name"
