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
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tc.alignment import AlignmentSettings
from hf_tc.calibration.data import read_documents, token_blocks
from hf_tc.conversion_settings import ConversionSettings
from hf_tc.convert_layers import Conversion
from hf_tc.evaluation import perplexity
from hf_tc.layer_selection.greedy import Score, convert_greedily
from hf_tc.layer_selection.hybrid import DistanceFromTeacher, Hybrid
from hf_tc.layer_selection.probe import bypassed
from hf_tc.layer_selection.uniform import retained_count, uniform
from tests.benchmarks.quality import TEXT_TOKENS, shuffled
from tests.benchmarks.retain_greedily import retain_greedily

BATCH_TOKENS = 8192
KL, NLL = 0, 1
Choose = Callable[[int], list[int]]  # how many to retain -> which


class Bench:
    """All layers of a teacher calibrated, and what hybrids of them are worth on two texts."""

    def __init__(self, conversion: Conversion, selection: Tensor, validation: Tensor) -> None:
        self.conversion, self.teacher, self.selection = conversion, conversion.teacher, selection
        self.layers = list(conversion.linear_layers)
        self.hybrid = Hybrid(conversion.student, conversion.teacher)
        self._distances = {
            "selection": DistanceFromTeacher(self.teacher, selection, max(1, BATCH_TOKENS // selection.shape[1])),
            "validation": DistanceFromTeacher(self.teacher, validation, max(1, BATCH_TOKENS // validation.shape[1])),
        }
        self._known: dict[tuple[str, str, tuple[int, ...]], tuple[float, float]] = {}
        self.stage = "closed_form"

    def take_stage(self, stage: str) -> None:
        self.hybrid.with_converted(self.layers)
        self.conversion.load_stage(stage)
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


def policies(bench: Bench, shares: list[float], exhaustive: bool) -> dict[str, Choose]:
    """Every way to choose, by name. Greedy orders are nested, so one of them serves all shares."""
    counts = [retained_count(share, len(bench.layers)) for share in shares]

    def score(which: int) -> Score:
        return lambda converted: bench.measure("selection", converted)[which]

    def by_order(order: list[int]) -> Choose:
        return lambda count: sorted(order[:count])

    def singly(which: int) -> list[int]:
        return sorted(bench.layers, key=lambda layer: -score(which)([layer]))

    rankings: dict[str, Callable[[], list[int]]] = {
        "bypass": lambda: bypass_order(bench),
        "kl of one swap": lambda: singly(KL),
        "perplexity of one swap": lambda: singly(NLL),
        "greedy converting, kl": lambda: first(convert_greedily(score(KL), bench.layers, min(counts))),
        "greedy converting, perplexity": lambda: first(convert_greedily(score(NLL), bench.layers, min(counts))),
        "greedy retaining, kl": lambda: first(retain_greedily(score(KL), bench.layers, max(counts))),
        "greedy retaining, perplexity": lambda: first(retain_greedily(score(NLL), bench.layers, max(counts))),
    }
    chosen: dict[str, Choose] = {"uniform": lambda count: list(uniform(count / len(bench.layers), len(bench.layers)))}
    for name, ranking in rankings.items():
        start = time.perf_counter()
        order = ranking()
        print(f"{name}, on {bench.stage}: {order}, {time.perf_counter() - start:.0f} s", flush=True)
        chosen[name] = by_order(order)
    if exhaustive:
        chosen["exhaustive, kl"] = lambda count: list(
            min(itertools.combinations(bench.layers, count), key=lambda kept: score(KL)(bench.without(kept)))
        )
    return chosen


def first(ranking: list[tuple[int, float]]) -> list[int]:
    return [layer for layer, _ in ranking]


def bypass_order(bench: Bench) -> list[int]:
    harm = {}
    for layer in bench.layers:
        with bypassed(bench.teacher, layer):
            harm[layer] = perplexity(
                bench.teacher, bench.selection, batch_size=BATCH_TOKENS // bench.selection.shape[1]
            )
    return sorted(bench.layers, key=lambda layer: -harm[layer])


def main() -> None:
    options = parse()
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    teacher = AutoModelForCausalLM.from_pretrained(options.teacher, dtype=torch.float32).to(options.device).eval()
    length = options.seq_len
    text = shuffled(token_blocks(read_documents(options.calibration), tokenizer, length, TEXT_TOKENS), options.seed)
    validation = token_blocks(read_documents(options.validation), tokenizer, length, options.validation_blocks * length)
    fitted, further = text.split(
        [options.calibration_tokens // length, len(text) - options.calibration_tokens // length]
    )
    count = max(1, options.selection_tokens // length)
    selection = further[:count] if options.fresh_text else fitted[-count:]
    steps = AlignmentSettings(steps=options.alignment_steps)
    settings = ConversionSettings(fitted.numel(), length, alignment=steps, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        conversion = Conversion(teacher, fitted, (), settings, options.folder or folder)
        start = time.perf_counter()
        conversion.fit_layers()
        print(f"all layers calibrated: {time.perf_counter() - start:.0f} s", flush=True)
        compare(Bench(conversion, selection, validation), options)


def compare(bench: Bench, options: argparse.Namespace) -> None:
    """Prints the choices and the table. With alignment, policies also choose by what aligned swaps cost."""
    stages = ["closed_form", "aligned"] if options.alignment_steps else ["closed_form"]
    choices: dict[tuple[str, int, tuple[int, ...]], dict[str, tuple[float, float]]] = {}
    for stage in stages:
        bench.take_stage(stage)
        for name, choose in policies(bench, options.shares, options.exhaustive).items():
            for count in {retained_count(share, len(bench.layers)): None for share in options.shares}:
                label = name if name in ("uniform", "bypass") else f"{name}, {stage.replace('_', ' ')}"
                choices.setdefault((label, count, tuple(choose(count))), {})
    for stage in stages:
        bench.take_stage(stage)
        for (_, _, retained), results in choices.items():
            results[stage] = bench.measure("validation", bench.without(retained))
    _, teacher_nll = bench.measure("validation", [])
    print(f"\nteacher: {math.exp(teacher_nll):.3f} on the validation text; x is perplexity over the teacher's")
    print("\n| retained | policy | layers |" + "".join(f" {s.replace('_', ' ')}, x | KL |" for s in stages))
    print("|---|---|---|" + "---|---|" * len(stages))
    for (label, count, retained), results in sorted(choices.items(), key=lambda item: item[0][1]):
        figures = "".join(f" {math.exp(results[s][NLL] - teacher_nll):.4f} | {results[s][KL]:.4f} |" for s in stages)
        print(f"| {count} of {len(bench.layers)} | {label} | {','.join(map(str, retained))} |{figures}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--calibration", required=True, help="text that the validation text is not part of")
    parser.add_argument("--validation", required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--calibration-tokens", type=int, default=65_536)
    parser.add_argument("--selection-tokens", type=int, default=16_384, help="on which policies score")
    parser.add_argument("--fresh-text", action="store_true", help="score on text that no layer was calibrated on")
    parser.add_argument("--alignment-steps", type=int, default=0)
    parser.add_argument("--exhaustive", action="store_true", help="also try every combination (12 layers: 1,364)")
    parser.add_argument("--folder", help="keeps the calibrated layers there, for a later run")
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--validation-blocks", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
