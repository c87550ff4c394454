# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The report as Markdown: what is known is shown, pictures that exist are shown, and nothing else."""

import re
from pathlib import Path

import pytest
from student_folders import tiny_report, tiny_student

from hf_tc.conversion_plots import save_conversion_plots
from hf_tc.layer_selection.selection import LayerSelection
from hf_tc.report import ConversionReport
from hf_tc.report_page import MANY_LAYERS, report_page, report_sections, teacher_name


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


def test_figures_from_before_a_distillation_are_called_so(tmp_path: Path) -> None:
    student = tiny_student()
    student.config.calibration = {"distilled_tokens": 1_000_000}
    student.conversion_report = full_report()
    student.save_pretrained(tmp_path)
    for name in ("conversion_report.md", "README.md"):
        text = (tmp_path / name).read_text()
        assert "distilled on 1,000,000 tokens; the figures here are from before" in text
        assert "- distillation tokens: 1,000,000\n" in text


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
