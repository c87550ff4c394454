# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A selection as data, as a file, as a table and as a plot."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from hf_tc.report.selection_plot import CONVERTED, RETAINED, plot_selection
from hf_tc.selection import LayerSelection

SELECTION = LayerSelection("greedy", [1, 2], [2, 1, 3, 0], [None, 0.3, 0.2, 0.1], "KL of something", 9, 4096, 12.4)


OF_PARTS = replace(SELECTION, components={"text": [0.4, 0.1, None, 0.05], "second copies": [None, 0.2, 0.2, 0.05]})


@pytest.mark.parametrize("selection", [SELECTION, OF_PARTS])
def test_it_is_json_and_comes_back(selection: LayerSelection, tmp_path: Path) -> None:
    selection.save(tmp_path / "selection.json")
    assert LayerSelection.load(tmp_path / "selection.json") == selection
    assert json.loads((tmp_path / "selection.json").read_text(), parse_constant=pytest.fail) == selection.to_dict()


def test_a_file_from_before_there_were_components_loads(tmp_path: Path) -> None:
    before = {name: value for name, value in SELECTION.to_dict().items() if name != "components"}
    (tmp_path / "selection.json").write_text(json.dumps(before))
    assert LayerSelection.load(tmp_path / "selection.json") == SELECTION


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


def rows_of(selection: LayerSelection) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=80)
    console.print(selection.table())
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_table_has_the_components_beside_the_score() -> None:
    rows = rows_of(OF_PARTS)
    assert ["rank", "layer", "score", "text", "second", "copies"] in rows
    assert ["2", "1", "0.3000", "0.1000", "0.2000", "retained"] in rows
    assert ["1", "2", "not", "finite", "0.4000", "not", "finite", "retained"] in rows


def test_table_has_the_ranking() -> None:
    rows = rows_of(SELECTION)
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


def test_plot_stacks_the_components_of_what_is_finite() -> None:
    axes = Figure().subplots()
    plot_selection(axes, OF_PARTS)
    bars = {
        (container.get_label(), round(bar.get_x() + bar.get_width() / 2)): (bar.get_y(), bar.get_height())
        for container in axes.containers
        for bar in container
    }
    assert bars == {
        ("retained, text", 0): (0.0, 0.0),
        ("retained, second copies", 0): (0.0, 0.0),  # its score is not finite
        ("retained, text", 1): (0.0, 0.1),
        ("retained, second copies", 1): (0.1, 0.2),
        ("converted, text", 2): (0.0, 0.0),
        ("converted, second copies", 2): (0.0, 0.2),
        ("converted, text", 3): (0.0, 0.05),
        ("converted, second copies", 3): (0.05, 0.05),
    }
    assert [text.get_text() for text in axes.texts] == ["not finite"]


def test_plot_without_a_ranking_names_the_layers() -> None:
    axes = Figure().subplots()
    plot_selection(axes, LayerSelection("uniform", [0, 4, 8]))
    assert [text.get_text() for text in axes.texts] == ["0, 4, 8"]
