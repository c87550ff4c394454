# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Pictures of a conversion: every figure is in them, in sizes from one layer to many; labels do not collide."""

import itertools
import random
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from student_folders import tiny_report

from hf_tc.report import plots
from hf_tc.report.distillation_section import curve_figure
from hf_tc.report.plots import conversion_figures, save_conversion_plots
from hf_tc.report.records import ConversionReport, LayerReport
from hf_tc.selection import LayerSelection

STAGES = {"teacher": 20.0, "copied": 30_000.0, "closed_form": 25.0, "aligned": 22.0, "joint": 21.0}


def report_of(layers: int, heads: int, retained: tuple[int, ...] = (0,)) -> ConversionReport:
    chance, report = random.Random(0), tiny_report()
    report.retained_layers = list(retained)
    report.linear_layers = [layer for layer in range(layers) if layer not in retained]
    report.layers = [
        LayerReport(
            layer=layer,
            mean_attention_distance=20.0,
            attention_entropy=2.0,
            timescale_tokens=30.0,
            beta=0.2,
            value_scale=1.0,
            output_gate=0.5,
            error_copied=chance.uniform(0.9, 3.0),
            error_closed_form=chance.uniform(0.1, 0.3),
            error_aligned=chance.uniform(0.05, 0.1),
            seconds=1.0,
            head_distances=[chance.lognormvariate(3, 1.5) for _ in range(heads)],
            head_half_lives=[chance.lognormvariate(3, 1.5) for _ in range(heads)],
            head_betas=[chance.uniform(0.02, 1.0) for _ in range(heads)],
        )
        for layer in report.linear_layers
    ]
    report.perplexity = dict(STAGES)
    report.selection = LayerSelection("kl", list(retained), list(range(layers)), [1.0 / (1 + i) for i in range(layers)])
    return report


def drawn(figure: Figure) -> Figure:
    FigureCanvasAgg(figure).draw()
    return figure


def test_one_picture_of_each_kind_is_saved_and_nothing_without_figures(tmp_path: Path) -> None:
    names = save_conversion_plots(report_of(4, 2), tmp_path)
    assert list(names) == ["perplexity", "errors", "memory", "write_gates", "selection"]
    for name in names.values():
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    report = tiny_report()  # no heads, no ranking
    assert list(save_conversion_plots(report, tmp_path)) == ["perplexity", "errors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plot_errors.png", "plot_perplexity.png"]
    report.layers, report.perplexity = [], {"teacher": 20.0, "aligned": None}
    assert conversion_figures(report) == {}


def test_every_stage_has_its_line_and_share() -> None:
    axes = drawn(conversion_figures(report_of(4, 2))["perplexity"]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["copied", "closed form", "aligned", "joint"]
    texts = [text.get_text() for text in axes.texts]
    assert texts == [
        "30,000  (1,500 ×)",
        "25.00  (1.25 ×)",
        "22.00  (1.10 ×)",
        "21.00  (1.05 ×)",
        "teacher 20.00",
    ]
    ends = [tuple(line.get_xdata()) for line in axes.lines[:-1:2]]
    assert ends == [(20.0, value) for value in list(STAGES.values())[1:]]


def test_every_layer_has_its_errors_and_retained_ones_a_blank_column() -> None:
    report = report_of(6, 2, retained=(1, 4))
    axes = conversion_figures(report)["errors"].axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["copied", "closed form", "aligned"]
    dots = [collection.get_offsets().tolist() for collection in axes.collections[1:]]
    assert dots == [
        [[row.layer, getattr(row, f"error_{stage}")] for row in report.layers]
        for stage in ("copied", "closed_form", "aligned")
    ]
    assert [patch.get_x() for patch in axes.patches] == [0.5, 3.5]
    low, high = axes.get_ylim()
    assert low < min(row.error_aligned for row in report.layers)
    assert high > max(row.error_copied for row in report.layers)


def test_every_head_is_a_point_and_counted_once() -> None:
    report = report_of(5, 3)
    figures = conversion_figures(report)
    points = figures["memory"].axes[0].collections[0]
    pairs = [
        [distance, half_life]
        for row in report.layers
        for distance, half_life in zip(row.head_distances, row.head_half_lives, strict=True)
    ]
    assert points.get_offsets().tolist() == pairs
    assert points.get_array().tolist() == [row.layer for row in report.layers for _ in range(3)]
    assert sum(bar.get_height() for bar in figures["write_gates"].axes[0].patches) == 12


def overlapping(boxes: list) -> list[tuple[int, int]]:
    return [(i, j) for (i, a), (j, b) in itertools.combinations(enumerate(boxes), 2) if a.overlaps(b)]


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (3, 2), (12, 32), (48, 2), (48, 8), (126, 2)])
def test_labels_do_not_collide_and_the_legend_is_not_over_data(layers: int, heads: int) -> None:
    report = report_of(layers, heads, retained=tuple(range(1, layers, 4)))
    for name, figure in conversion_figures(report).items():
        drawn(figure)
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                shown = [label for tick in ticks for label in (tick.label1, tick.label2) if label.get_visible()]
                boxes = [label.get_window_extent() for label in shown if label.get_text()]
                assert len(boxes) > 0 or axes.get_label() == "<colorbar>", name
                assert not overlapping(boxes), (name, [label.get_text() for label in shown])
            legend = axes.get_legend()
            if legend is not None:
                assert legend.get_window_extent().y0 >= axes.get_window_extent().y1 - 1
        boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts]
        assert not overlapping(boxes), name
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes), name


@pytest.mark.parametrize("layers", [1, 8, 28])
@pytest.mark.parametrize("parts", [(), ("text", "second copies")])
def test_the_legend_of_a_selection_is_not_over_its_title(layers: int, parts: tuple[str, ...]) -> None:
    scores: list[float | None] = [1.0 / (1 + place) for place in range(layers)]
    components = {part: [0.5 * (score or 0.0) for score in scores] for part in parts}
    selection = LayerSelection("restore", [0], list(range(layers)), scores, "nats", 1, 1, 1.0, components)
    report = report_of(layers, 1)
    report.selection = selection
    figure = drawn(conversion_figures(report)["selection"])
    (axes,) = figure.axes
    titles = [title for title in (axes.title, axes._left_title) if title.get_text()]
    assert [title.get_text() for title in titles] == ["Retained layers by restore"]
    extent = titles[0].get_window_extent()
    assert not extent.overlaps(axes.get_legend().get_window_extent())
    assert extent.y1 <= figure.bbox.y1


def test_equal_perplexities_can_be_drawn() -> None:
    report = report_of(3, 2)
    report.perplexity = dict.fromkeys(STAGES, 23.6)
    drawn(conversion_figures(report)["perplexity"])


def test_pictures_are_the_same_for_the_same_report(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        plots.LAST_DRAWN.clear()
        save_conversion_plots(report_of(4, 2), tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_report_is_drawn_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plots.LAST_DRAWN.clear()
    draw = MagicMock(side_effect=conversion_figures)
    monkeypatch.setattr(plots, "conversion_figures", draw)
    report, picture, seen = report_of(4, 2), tmp_path / "plot_perplexity.png", []
    for change in ({}, {}, {"aligned": 99.0}, {}):
        report.perplexity.update(change)
        save_conversion_plots(report, tmp_path)
        seen.append(picture.read_bytes())
    assert draw.call_count == 2
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_the_curve_of_a_student_that_is_better_than_its_teacher_says_so() -> None:
    point = {"perplexity": 9.9, "teacher_perplexity": 10.0, "kl": 0.1}
    figure = curve_figure([{"curve": [{**point, "tokens": tokens} for tokens in (0, 512, 1024)]}])
    kl, above = figure.axes
    assert [text.get_text() for text in above.texts] == ["none: at or below the teacher's"]
    assert len(kl.lines) == 2
