# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tokens that each start needed, and perplexity over tokens, from the JSON files of runs of `distilled_tokens`.

    python -m tests.benchmarks.distilled_tokens_plot copied.json reference.json ours.json [--plot FILE.png]

Of the learning rates of a start the one counts that met both targets first, or else ended nearest to the teacher. Of
runs of the same start and rate, the last file's counts. What no measurement met is given as more than all its tokens.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_tc.report.plot_style import INK, new_figure

from .budget_plot import save_over_tokens
from .distilled_tokens_measures import LAMBADA, NATS, PERPLEXITY

COLUMNS = ["start", "learning rate", "tokens", PERPLEXITY, LAMBADA, NATS, "seconds", "tokens/s"]
TICKS = (1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2, 5, 10, 100, 1000, 10_000)
Rows = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    contents = [json.loads(path.read_text()) for path in options.results]
    if any(content["targets"] != contents[0]["targets"] for content in contents):
        parser.error(f"the targets are not the same: {[content['targets'] for content in contents]}")
    show([row for content in contents for row in content["rows"]], contents[0]["targets"], options.plot)


def show(rows: Rows, targets: dict[str, float], plot: Path | None) -> None:
    """Prints the fewest tokens of each start and their ratios to those of "ours"; draws where a file is given."""
    best = best_runs(rows, targets)
    needed = {start: tokens_to(run, targets) for start, run in best.items()}
    print(f"\nFewest tokens to a perplexity x {targets[PERPLEXITY]:g} and {targets[LAMBADA]:g} of LAMBADA:")
    for start, run in best.items():
        spent = f"> {run[-1]['tokens']:,}" if needed[start] is None else f"{needed[start]:,}"
        print(f"{start}: {spent} (learning rate {run[0]['learning rate']:g})")
    ours = needed.get("ours")
    for start in best:
        if start != "ours" and ours is not None:
            least = best[start][-1]["tokens"] if needed[start] is None else needed[start]
            more = "> " * (needed[start] is None)
            print(f"{start} / ours: " + (f"{more}{least / ours:.1f}" if ours else "ours needs none"))
    if plot is not None:
        draw(best, targets[PERPLEXITY], plot)


def is_met(row: dict[str, Any], targets: dict[str, float]) -> bool:
    return bool(row[PERPLEXITY] <= targets[PERPLEXITY] and row[LAMBADA] >= targets[LAMBADA])


def tokens_to(run: Rows, targets: dict[str, float]) -> int | None:
    """Tokens at the first measurement that meets both targets, None where none does."""
    return next((row["tokens"] for row in run if is_met(row, targets)), None)


def best_runs(rows: Iterable[dict[str, Any]], targets: dict[str, float]) -> dict[str, Rows]:
    """By start, the rows of its best learning rate."""
    runs: dict[tuple[str, float], Rows] = {}
    for row in rows:
        key = row["start"], row["learning rate"]
        runs[key] = [row] if row["tokens"] == 0 else [*runs[key], row]

    def rank(run: Rows) -> tuple[float, float]:
        tokens = tokens_to(run, targets)
        return float("inf") if tokens is None else tokens, run[-1][PERPLEXITY]

    starts = dict.fromkeys(start for start, _ in runs)
    return {start: min((run for (name, _), run in runs.items() if name == start), key=rank) for start in starts}


def draw(best: dict[str, Rows], target: float, path: Path) -> None:
    figure = new_figure(7, 4.2)
    axis = figure.subplots()
    for start, run in best.items():
        label = f"{start}, learning rate {run[0]['learning rate']:g}"
        axis.plot([row["tokens"] for row in run], [row[PERPLEXITY] - 1 for row in run], "o-", markersize=4, label=label)
    axis.axhline(target - 1, color=INK, linestyle=":", label=f"target {target:g}")
    trained = [row["tokens"] for run in best.values() for row in run if row["tokens"]]
    if trained:
        axis.set_xscale("symlog", linthresh=min(trained), linscale=0.5)  # logarithmic, with a place for 0
        doublings = [min(trained) * 2**n for n in range(20) if min(trained) * 2**n <= max(trained)]
        axis.set_xticks([0, *doublings], ["0", *map(shown, doublings)])
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    ticks = [tick for tick in TICKS if low <= tick - 1 <= high]
    axis.set_yticks([tick - 1 for tick in ticks], [f"{tick:,g}" for tick in ticks])
    save_over_tokens(figure, "distilled tokens", path)


def shown(tokens: float) -> str:
    return f"{tokens / 1e6:.3g}M" if tokens >= 1e6 else f"{tokens / 1e3:.3g}k"


if __name__ == "__main__":
    main()
