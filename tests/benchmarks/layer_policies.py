# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which layers to retain: every policy at every share, on one calibration.

    python -m tests.benchmarks.layer_policies --teacher DIR --calibration books-train.txt --validation books-val.txt

All layers are calibrated once (and aligned, with --alignment-steps): under teacher forcing a layer's weights do not
depend on what else is converted, so a policy only combines them. Policies see calibration text alone; the table is
measured on the validation text. --exhaustive adds the best of all combinations on the selection text.
"""

import argparse
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from hf_tc.config import AlignmentConfig, ConversionConfig
from hf_tc.conversion.checkpoint import ConversionCheckpoint
from hf_tc.conversion.layer_by_layer import fit_layers, load_stage
from hf_tc.conversion.run import begin
from hf_tc.conversion.task import ConversionTask
from hf_tc.evaluation.distance import DistanceFromTeacher
from hf_tc.evaluation.perplexity import perplexity
from hf_tc.layer_selection.greedy import Score, convert_greedily
from hf_tc.layer_selection.hybrid import Hybrid
from hf_tc.layer_selection.probe import bypassed
from hf_tc.layer_selection.uniform import retained_count, uniform

from .bench import LARGE_BATCHES, Bench, Results, add_bench_arguments, clock, parser_of
from .retain_greedily import retain_greedily

BATCH_TOKENS = 8192
KL, NLL = 0, 1
UNITS = (", x", ", KL")
Choose = Callable[[int], list[int]]  # how many to retain -> which


class Hybrids:
    """All layers of a teacher calibrated, and what hybrids of them are worth on two texts."""

    def __init__(
        self, task: ConversionTask, checkpoint: ConversionCheckpoint, selection: Tensor, validation: Tensor
    ) -> None:
        self.student, self.checkpoint, self.teacher, self.selection = task.student, checkpoint, task.teacher, selection
        self.layers = list(task.student.config.linear_layers)
        self.hybrid = Hybrid(task.student, task.teacher)
        self._distances = {
            "selection": DistanceFromTeacher(self.teacher, selection, max(1, BATCH_TOKENS // selection.shape[1])),
            "validation": DistanceFromTeacher(self.teacher, validation, max(1, BATCH_TOKENS // validation.shape[1])),
        }
        self._known: dict[tuple[str, str, tuple[int, ...]], tuple[float, float]] = {}
        self.stage = "closed_form"

    def take_stage(self, stage: str) -> None:
        self.hybrid.with_converted(self.layers)
        load_stage(self.student, self.checkpoint, stage)
        self.stage = stage

    def measure(self, text: str, converted: Iterable[int]) -> tuple[float, float]:
        """(KL, negative log-likelihood), nats per token, with these layers converted."""
        layers = tuple(sorted(converted))
        key = (self.stage, text, layers)
        if key not in self._known:
            self._known[key] = self._distances[text](self.hybrid.with_converted(layers))
        return self._known[key]

    def without(self, retained: Iterable[int]) -> list[int]:
        return [layer for layer in self.layers if layer not in set(retained)]


def policies(hybrids: Hybrids, shares: list[float], exhaustive: bool) -> dict[str, Choose]:
    """Every way to choose, by name. Greedy orders are nested, so one of them serves all shares."""
    counts = [retained_count(share, len(hybrids.layers)) for share in shares]

    def score(which: int) -> Score:
        return lambda converted: hybrids.measure("selection", converted)[which]

    def by_order(order: list[int]) -> Choose:
        return lambda count: sorted(order[:count])

    def singly(which: int) -> list[int]:
        return sorted(hybrids.layers, key=lambda layer: -score(which)([layer]))

    rankings: dict[str, Callable[[], list[int]]] = {
        "bypass": lambda: bypass_order(hybrids),
        "kl of one swap": lambda: singly(KL),
        "perplexity of one swap": lambda: singly(NLL),
        "greedy converting, kl": lambda: first(convert_greedily(score(KL), hybrids.layers, min(counts))),
        "greedy converting, perplexity": lambda: first(convert_greedily(score(NLL), hybrids.layers, min(counts))),
        "greedy retaining, kl": lambda: first(retain_greedily(score(KL), hybrids.layers, max(counts))),
        "greedy retaining, perplexity": lambda: first(retain_greedily(score(NLL), hybrids.layers, max(counts))),
    }
    chosen: dict[str, Choose] = {
        "uniform": lambda count: list(uniform(count / len(hybrids.layers), len(hybrids.layers)))
    }
    for name, ranking in rankings.items():
        start = clock()
        order = ranking()
        print(f"{name}, on {hybrids.stage}: {order}, {clock() - start:.0f} s", flush=True)
        chosen[name] = by_order(order)
    if exhaustive:
        chosen["exhaustive, kl"] = lambda count: list(
            min(itertools.combinations(hybrids.layers, count), key=lambda kept: score(KL)(hybrids.without(kept)))
        )
    return chosen


def first(ranking: list[tuple[int, float]]) -> list[int]:
    return [layer for layer, _ in ranking]


def bypass_order(hybrids: Hybrids) -> list[int]:
    harm = {}
    for layer in hybrids.layers:
        with bypassed(hybrids.teacher, layer):
            harm[layer] = perplexity(
                hybrids.teacher, hybrids.selection, batch_size=BATCH_TOKENS // hybrids.selection.shape[1]
            )
    return sorted(hybrids.layers, key=lambda layer: -harm[layer])


def main() -> None:
    options = parse()
    bench = Bench(options)
    selection_blocks = max(1, options.selection_tokens // options.sequence_length)
    text = bench.blocks(
        options.calibration_tokens + selection_blocks * options.sequence_length, options.sequence_length
    )
    fitted, further = text[:-selection_blocks], text[-selection_blocks:]
    selection = further if options.fresh_text else fitted[-selection_blocks:]
    steps = AlignmentConfig(options.alignment_steps, **LARGE_BATCHES)
    settings = ConversionConfig(fitted.numel(), options.sequence_length, alignment=steps, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        task = ConversionTask(bench.teacher, fitted, settings, Path(options.folder or folder))
        checkpoint, start = begin(task, []), clock()
        fit_layers(task, settings, checkpoint)
        print(f"all layers calibrated: {clock() - start:.0f} s", flush=True)
        compare(Hybrids(task, checkpoint, selection, bench.validation), options)


def compare(hybrids: Hybrids, options: argparse.Namespace) -> None:
    """Prints the choices and the table. With alignment, policies also choose by what aligned swaps cost."""
    stages = ["closed_form", "aligned"] if options.alignment_steps else ["closed_form"]
    choices: dict[tuple[str, int, tuple[int, ...]], dict[str, tuple[float, float]]] = {}
    for stage in stages:
        hybrids.take_stage(stage)
        for name, choose in policies(hybrids, options.shares, options.exhaustive).items():
            for count in {retained_count(share, len(hybrids.layers)): None for share in options.shares}:
                label = name if name in ("uniform", "bypass") else f"{name}, {stage.replace('_', ' ')}"
                choices.setdefault((label, count, tuple(choose(count))), {})
    for stage in stages:
        hybrids.take_stage(stage)
        for (_, _, retained), found in choices.items():
            found[stage] = hybrids.measure("validation", hybrids.without(retained))
    _, teacher_nll = hybrids.measure("validation", [])
    columns = ["retained", "policy", "layers", *(f"{stage}{unit}" for stage in stages for unit in UNITS)]
    results = Results(options.out, columns, benchmark="layer_policies", tokens=options.calibration_tokens)
    results.heading(f"teacher: {math.exp(teacher_nll):.3f} on the validation text; x is perplexity over the teacher's")
    for (label, count, retained), found in sorted(choices.items(), key=lambda item: item[0][1]):
        figures = {f"{s}, x": math.exp(found[s][NLL] - teacher_nll) for s in stages}
        figures |= {f"{s}, KL": found[s][KL] for s in stages}
        layers = ",".join(map(str, retained))
        results.add(retained=f"{count} of {len(hybrids.layers)}", policy=label, layers=layers, **figures)


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="layer_policies.json")
    add_bench_arguments(parser)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--calibration-tokens", type=int, default=65_536)
    parser.add_argument("--selection-tokens", type=int, default=16_384, help="on which policies score")
    parser.add_argument("--fresh-text", action="store_true", help="score on text that no layer was calibrated on")
    parser.add_argument("--alignment-steps", type=int, default=0)
    parser.add_argument("--exhaustive", action="store_true", help="also try every combination (12 layers: 1,364)")
    parser.add_argument("--folder", help="keeps the calibrated layers there, for a later run")
    parser.add_argument("--sequence-length", type=int, default=1024)
    return parser.parse_args()


if __name__ == "__main__":
    main()
