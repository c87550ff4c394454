# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The report as data, as files and as tables."""

import csv
import io
import json
import math
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console
from student_folders import tiny_report

from hf_tc.report import REPORT_FILE
from hf_tc.report.records import LOG_FILE, ConversionReport, LayerReport, perplexity_table
from hf_tc.selection import LayerSelection


def printed(renderable: object = None, report: ConversionReport | None = None, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    if report is None:
        console.print(renderable)
    else:
        report.print(console)
    return console.file.getvalue()


def line_of(text: str, first_word: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [first_word])


def test_report_comes_back_from_its_json(tmp_path: Path) -> None:
    report = tiny_report()
    for row in report.layers:
        row.error_aligned, row.head_betas = 1 / 3, [0.1, 0.2]
    assert not ConversionReport.exists(tmp_path)
    report.save(tmp_path)
    assert ConversionReport.exists(tmp_path)
    assert ConversionReport.load(tmp_path) == report
    assert json.loads((tmp_path / REPORT_FILE).read_text())["layers"][1]["beta"] == 0.321


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"layers": [{}]}', '{"layers": 3}'])
def test_a_damaged_report_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / REPORT_FILE).write_text(content)
    with pytest.raises(ValueError, match=f"{REPORT_FILE} cannot be read"):
        ConversionReport.load(tmp_path)


def test_what_a_later_release_added_to_a_report_is_left_out(tmp_path: Path) -> None:
    report = tiny_report()
    report.save(tmp_path)
    data = json.loads((tmp_path / REPORT_FILE).read_text())
    data["added_later"] = data["layers"][0]["added_later"] = 1
    (tmp_path / REPORT_FILE).write_text(json.dumps(data))
    assert ConversionReport.load(tmp_path).provenance == report.provenance


def test_log_has_a_row_per_layer_and_a_column_per_quantity(tmp_path: Path) -> None:
    report = tiny_report()
    report.layers[0].head_betas = [0.1, 1 / 3]
    report.save(tmp_path)
    with (tmp_path / LOG_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["layer"]) for row in rows] == [1, 2]
    columns = [item.name for item in fields(LayerReport)]
    assert list(rows[0]) == columns
    for row, expected in zip(rows, report.layers, strict=True):
        for name in columns:
            value, found = getattr(expected, name), row[name]
            if name.startswith("head_"):
                assert json.loads(found) == value
            else:
                assert float(found) == value or (math.isnan(value) and math.isnan(float(found)))


def test_stages_are_those_that_were_measured_in_their_order() -> None:
    report = tiny_report()
    assert report.error_stages == ["copied", "closed_form"]
    report.layers[1].error_aligned = 0.1
    assert report.error_stages == ["copied", "closed_form", "aligned"]
    report.perplexity |= {"aligned": math.inf, "joint": 25.0}
    assert report.known_perplexities == {"teacher": 20.0, "copied": 700.0, "closed_form": 30.0, "joint": 25.0}
    assert line_of(printed(report=report), "joint") == ["joint", "25.00", "1.25"]


def test_provenance_is_the_report_without_rows_and_times() -> None:
    report = tiny_report()
    assert report.provenance.keys() == report.to_dict().keys() - {
        "layers",
        "seconds",
        "selection",
        "device",
        "arguments",
        "stage_seconds",
        "evaluation",
        "distillations",
    }
    report.selection = LayerSelection("kl", [0], [0, 1], [0.5, 0.1], seconds=3.0)
    assert report.provenance["layer_policy"] == "kl"
    assert report.provenance["teacher"] == "some-org/some-teacher"
    json.dumps(report.provenance)


def test_report_carries_its_selection(tmp_path: Path) -> None:
    report = tiny_report()
    report.selection = LayerSelection("kl", [0], [0, 1], [None, 0.1], "KL", 2, 64, 3.0)
    report.save(tmp_path)
    assert ConversionReport.load(tmp_path).selection == report.selection


def test_table_has_a_row_per_layer_with_each_quantity() -> None:
    text = printed(report=tiny_report())
    assert line_of(text, "1") == ["1", "31", "42", "0.32", "0.90", "0.50", "0.987", "0.543", "1.5"]
    assert line_of(text, "2")[:3] == ["2", "31", "44"]  # 43.5, rounded to even
    heading = line_of(text, "layer")
    assert len(heading) == 9
    assert heading.index("beta") == 3


def test_table_fits_a_terminal() -> None:
    report = tiny_report()
    report.layers[0].seconds, report.layers[0].timescale_tokens = 123.4, 40000.0
    text = printed(report=report, width=80)
    assert "0.987" in text
    assert "0.543" in text
    assert "…" not in text


def test_perplexities_are_shown_with_their_ratio_to_the_teacher() -> None:
    text = printed(report=tiny_report())
    assert "4,096" in text
    assert line_of(text, "teacher") == ["teacher", "20.00", "1.00"]
    assert line_of(text, "copied") == ["copied", "700.00", "35.00"]
    assert line_of(text, "closed") == ["closed", "form", "30.00", "1.50"]
    assert "aligned" not in text.split("held-out tokens")[-1]  # not measured


def test_without_the_teachers_perplexity_there_is_no_ratio() -> None:
    assert line_of(printed(perplexity_table({"aligned": 1234.5}, 10)), "aligned") == ["aligned", "1,234.50"]


def test_report_without_perplexities_prints_its_layers_alone() -> None:
    report = tiny_report()
    report.perplexity = {"teacher": None}
    text = printed(report=report)
    assert line_of(text, "2")
    assert "Perplexity" not in text
