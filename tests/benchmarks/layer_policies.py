# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which layers to retain: every policy at every share, on one calibration.

    python -m tests.benchmarks.layer_policies --teacher DIR --calibration books-train.txt --validation books-val.txt

All layers are calibrated once (and aligned, with --alignment-steps): under teacher forcing a layer's weights do not
depend on what else is converted, so a policy only combines them. Policies see calibration text alone; the table is
measured on the validation text. Policies but `uniform` and `bypass` are a score of hybrids and a way to use it:
`kl, one swap` is the package's `kl`, `kl, greedy converting` its `greedy`; its `restore` and `recall` are `kl, greedy
retaining` and, with all of the weight, `recall, greedy retaining`, as long as no layer gains from company.
--exhaustive adds the best of all combinations on the selection text.

Columns: perplexity over the teacher's and KL to it; with --recall how much less likely than to the teacher, in nats,
second copies of passages of the validation text are; with --tasks the accuracy in each.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from transformers import AutoTokenizer

from hf_tc.config import AlignmentConfig, ConversionConfig
from hf_tc.conversion.layer_by_layer import fit_layers
from hf_tc.conversion.run import begin
from hf_tc.conversion.task import ConversionTask
from hf_tc.evaluation.perplexity import perplexity
from hf_tc.layer_selection.greedy import Score, convert_greedily
from hf_tc.layer_selection.probe import bypassed
from hf_tc.layer_selection.uniform import retained_count, uniform

from .bench import LARGE_BATCHES, Bench, Results, add_bench_arguments, clock, parser_of
from .hybrids import BATCH_TOKENS, KL, NLL, Figures, Hybrids
from .retain_greedily import retain_greedily

Choose = Callable[[int], list[int]]  # how many to retain -> which
Ranking = list[tuple[int, float]]  # layers, the most worth retaining first, with their scores
WEIGHT = 0.25  # of second copies in the score `recall`; the package's policy of that name takes 1


def one_swap(score: Score, layers: list[int], count: int) -> Ranking:
    """By what converting the layer alone costs."""
    scores = {layer: score([layer]) for layer in layers}
    return sorted(scores.items(), key=lambda item: -item[1])


def one_restored(score: Score, layers: list[int], count: int) -> Ranking:
    """By what is left when the layer alone is retained."""
    return retain_greedily(score, layers, 1)


SCORES: dict[str, Callable[[Hybrids, Iterable[int]], float]] = {
    "kl": lambda hybrids, converted: hybrids.measure("selection", converted)[KL],
    "perplexity": lambda hybrids, converted: hybrids.measure("selection", converted)[NLL],
    "second copies": lambda hybrids, converted: hybrids.measure("selection, second copies", converted)[KL],
    "recall": lambda hybrids, converted: (
        SCORES["kl"](hybrids, converted) + WEIGHT * SCORES["second copies"](hybrids, converted)
    ),
}
WAYS: dict[str, tuple[Callable[[Score, list[int], int], Ranking], Callable[[Iterable[int]], int]]] = {
    "one swap": (one_swap, min),
    "one restored": (one_restored, min),
    "greedy converting": (convert_greedily, min),  # down to the fewest layers that any share retains
    "greedy retaining": (retain_greedily, max),
}
POLICIES = ["uniform", "bypass", *(f"{score}, {way}" for score, way in itertools.product(SCORES, WAYS))]


def policies(hybrids: Hybrids, counts: list[int], names: Iterable[str], exhaustive: bool) -> dict[str, Choose]:
    """Ways to choose, by name. Greedy orders are nested, so one of them serves all counts."""
    chosen: dict[str, Choose] = {}
    for name in names:
        if name == "uniform":
            chosen[name] = lambda count: list(uniform(count / len(hybrids.layers), len(hybrids.layers)))
            continue
        start = clock()
        ranking = ranking_by(name, hybrids, counts)
        scores = ", ".join(f"{layer} {score:.4g}" for layer, score in ranking)
        print(f"{name}, on {hybrids.stage}, {clock() - start:.0f} s: {scores}", flush=True)
        order = [layer for layer, _ in ranking]
        chosen[name] = lambda count, order=order: sorted(order[:count])
    if exhaustive:
        chosen["exhaustive, kl"] = lambda count: list(
            min(
                itertools.combinations(hybrids.layers, count),
                key=lambda kept: hybrids.measure("selection", hybrids.without(kept))[KL],
            )
        )
    return chosen


def ranking_by(name: str, hybrids: Hybrids, counts: list[int]) -> Ranking:
    if name == "bypass":
        return bypass_ranking(hybrids)
    score, way = name.split(", ")
    rank, of_counts = WAYS[way]
    return rank(lambda converted: SCORES[score](hybrids, converted), hybrids.layers, of_counts(counts))


def bypass_ranking(hybrids: Hybrids) -> Ranking:
    harm = {}
    for layer in hybrids.layers:
        with bypassed(hybrids.teacher, layer):
            harm[layer] = perplexity(
                hybrids.teacher, hybrids.selection, batch_size=BATCH_TOKENS // hybrids.selection.shape[1]
            )
    return sorted(harm.items(), key=lambda item: -item[1])


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
    total = len(hybrids.layers)
    counts = list(dict.fromkeys(retained_count(share, total) for share in options.shares))
    choices: dict[tuple[str, int, tuple[int, ...]], dict[str, float]] = {("teacher", total, tuple(hybrids.layers)): {}}
    for stage in stages:
        hybrids.take_stage(stage)
        for name, choose in policies(hybrids, counts, options.policies, options.exhaustive).items():
            label = name if name in ("uniform", "bypass") else f"{name}, {stage.replace('_', ' ')}"
            choices |= {(label, count, tuple(choose(count))): {} for count in counts}
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    figures = Figures(hybrids, tokenizer, options.recall, options.tasks, options.task_rows)
    for stage in stages:
        hybrids.take_stage(stage)
        for (label, count, retained), found in choices.items():
            found |= {f"{stage}, {name}": value for name, value in figures.of(retained)}
            print(f"{label}, {count} of {total}: {found}", flush=True)
    columns = ["retained", "policy", "layers", *next(iter(choices.values()))]
    results = Results(options.out, columns, benchmark="layer_policies", tokens=options.calibration_tokens)
    results.heading("On the validation text; x is perplexity over the teacher's")
    for (label, count, retained), found in sorted(choices.items(), key=lambda item: item[0][1]):
        layers = ",".join(map(str, retained)) if label != "teacher" else "all"
        results.add(retained=f"{count} of {total}", policy=label, layers=layers, **found)


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="layer_policies.json")
    add_bench_arguments(parser)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--calibration-tokens", type=int, default=65_536)
    parser.add_argument("--selection-tokens", type=int, default=16_384, help="on which policies score")
    parser.add_argument("--fresh-text", action="store_true", help="score on text that no layer was calibrated on")
    parser.add_argument("--alignment-steps", type=int, default=0)
    parser.add_argument("--exhaustive", action="store_true", help="also try every combination (12 layers: 1,364)")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES, metavar="POLICY")
    parser.add_argument("--recall", action="store_true", help="also measure second copies of passages")
    parser.add_argument("--tasks", nargs="+", default=[], help="names of lm-eval's tasks, and files of JSON lines")
    parser.add_argument("--task-rows", type=int, help="of each task, from its start (default: all)")
    parser.add_argument("--folder", help="keeps the calibrated layers there, for a later run")
    parser.add_argument("--sequence-length", type=int, default=1024)
    return parser.parse_args()


if __name__ == "__main__":
    main()
