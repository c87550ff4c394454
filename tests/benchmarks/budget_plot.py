# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Perplexity over the teacher's against calibration tokens, from the JSON files of runs of `quality`.

    python -m tests.benchmarks.budget_plot quality.json other.json --plot model_cards/budgets.png

One line for each stage and number of steps; students of one budget and the same steps are drawn once.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from hf_tc.report.plot_style import new_figure

STYLES = {"closed form": "s-", "aligned": "o-", "jointly aligned": "^-"}
Lines = dict[tuple[str, int, int], dict[int, float]]  # stage, alignment steps, joint steps -> tokens -> x teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--plot", type=Path, required=True)
    options = parser.parse_args()
    draw(lines_of([row for path in options.results for row in json.loads(path.read_text())["rows"]]), options.plot)


def lines_of(rows: list[dict[str, Any]]) -> Lines:
    """Steps that a stage has not taken yet are 0 in its key."""
    lines: Lines = defaultdict(dict)
    for row in rows:
        stage = row["student"]
        if stage in STYLES:
            aligned = 0 if stage == "closed form" else row["alignment steps"]
            joint = row["joint steps"] if stage == "jointly aligned" else 0
            lines[stage, aligned, joint][row["calibration tokens"]] = row["x teacher"]
    return dict(sorted(lines.items(), key=lambda line: (list(STYLES).index(line[0][0]), line[0][1:])))


def draw(lines: Lines, path: Path) -> None:
    figure = new_figure(7, 4.2)
    axis = figure.subplots()
    for (stage, aligned, joint), points in lines.items():
        steps = f", {aligned:,} steps a layer" * (aligned > 0) + f", {joint:,} joint steps" * (joint > 0)
        tokens = sorted(points)
        axis.plot(tokens, [points[n] - 1 for n in tokens], STYLES[stage], label=stage + steps)
    every = sorted({n for points in lines.values() for n in points})
    ticks = (0.02, 0.03, 0.05, 0.1, 0.2, 0.3)
    axis.set_xscale("log", base=2)
    axis.set_xticks(every, [f"{n:,}" for n in every])
    axis.set_yscale("log")
    axis.set_yticks(ticks, [f"{1 + share:.2f}" for share in ticks])
    save_over_tokens(figure, "calibration tokens", path)


def save_over_tokens(figure: Any, tokens: str, path: Path) -> None:
    """Finishes a figure of perplexity over the teacher's, drawn over such tokens, and writes it."""
    (axis,) = figure.axes
    axis.minorticks_off()
    axis.set_xlabel(tokens)
    axis.set_ylabel("perplexity, x the teacher's")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
