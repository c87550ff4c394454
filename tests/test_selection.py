# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A selection as data, as a file, as a table and as a plot."""

import io
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from hf_tc.report.selection_plot import CONVERTED, RETAINED, plot_selection
from hf_tc.selection import LayerSelection

SELECTION = LayerSelection("greedy", [1, 2], [2, 1, 3, 0], [None, 0.3, 0.2, 0.1], "KL of something", 9, 4096, 12.4)


def test_it_is_json_and_comes_back(tmp_path: Path) -> None:
    SELECTION.save(tmp_path / "selection.json")
    assert LayerSelection.load(tmp_path / "selection.json") == SELECTION
    assert json.loads((tmp_path / "selection.json").read_text(), parse_constant=pytest.fail) == SELECTION.to_dict()


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[0, 4]",
        '{"policy": "kl"}',
        '{"policy": "kl", "retained_layers": [], "x": 1}',
        '{"policy": "kl", "retained_layers": "0,4"}',
        '{"policy": "kl", "retained_layers": [0, "4"]}',
    ],
)
def test_other_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other\.json: This is no selection of layers"):
        LayerSelection.load(tmp_path / "other.json")


def test_what_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("0,4,8")
    with pytest.raises(ValueError, match="is not JSON"):
        LayerSelection.load(tmp_path / "other.json")


def test_table_has_the_ranking() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(SELECTION.table())
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["1", "2", "not", "finite", "retained"] in rows
    assert ["2", "1", "0.3000", "retained"] in rows
    assert ["4", "0", "0.1000"] in rows
    assert SELECTION.cost == "9 forward passes of 4,096 tokens, 12 s in all"
    assert LayerSelection("uniform", [0]).cost == ""


def test_plot_has_a_bar_for_each_layer_in_order() -> None:
    axes = Figure().subplots()
    plot_selection(axes, SELECTION)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "1", "3", "0"]
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axes.patches}
    assert heights == {0: 0.0, 1: 0.3, 2: 0.2, 3: 0.1}
    colors = {container.get_label(): container[0].get_facecolor() for container in axes.containers}
    assert colors.keys() == {"retained", "converted"}
    assert RETAINED != CONVERTED
    assert [text.get_text() for text in axes.texts] == ["not finite"]


def test_plot_without_a_ranking_names_the_layers() -> None:
    axes = Figure().subplots()
    plot_selection(axes, LayerSelection("uniform", [0, 4, 8]))
    assert [text.get_text() for text in axes.texts] == ["0, 4, 8"]
