# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What each piece of the closed form adds alone, and what its absence costs.

    python -m tests.benchmarks.ablation --teacher DIR --calibration books-train.txt --validation books-val.txt

All rows have the same text and the same retained layers, and take no gradient step. Without any piece a layer has the
paper's half-life, a beta of 0.5 and one output scale a head (see `hf_tc.calibration.solve_order`); "copied weights" are
before that, gates at random. The error is the mean over layers of their relative error on held-out text.
Writes the table to --table as Markdown. About 2 minutes on an H100 for 65,536 tokens.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_tc.alignment.layerwise import held_out_error
from hf_tc.calibration.capture_attention import CapturedAttention, LayerStream
from hf_tc.calibration.solve_order import COMPONENTS, apply, solve
from hf_tc.evaluation.perplexity import evaluate_blocks
from hf_tc.memory.estimate import blocks_at_once
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers
from hf_tc.teachers.new_student import build_student, mixer_of

from .bench import Bench, Results, add_bench_arguments, add_retained_argument, clock, parser_of

COLUMNS = ["closed form", "perplexity", "x teacher", "KL", "error of layers", "seconds"]


def main() -> None:
    options = parse()
    bench = Bench(options)
    options.table.parent.mkdir(parents=True, exist_ok=True)
    results = Results(options.out, COLUMNS, benchmark="ablation", retained=options.retained, tokens=options.tokens)
    results.heading(f"{results.content['machine']}, {options.tokens:,} calibration tokens")
    student = untouched_student(bench, options)
    copies = {layer: weights_of(student, layer) for layer in student.config.linear_layers}
    captured = list(captured_layers(bench, student, options))
    for name, components in variants(COMPONENTS):
        start, errors = clock(), []
        for layer, fitted, held_out, softmax in captured:
            mixer = mixer_of(student, layer)
            mixer.load_state_dict(copies[layer])
            if components is not None:
                apply(mixer, solve(mixer, fitted, **softmax, components=components).weights)
            errors.append(held_out_error(mixer, held_out))
        measure(bench, student, results, name, errors, clock() - start)
        options.table.write_text(results.markdown)


def variants(components: tuple[str, ...]) -> list[tuple[str, list[str] | None]]:
    """(name, components to solve) of each row; None for the weights as they were copied."""
    rows: list[tuple[str, list[str] | None]] = [("copied weights", None), ("no piece", [])]
    rows += [(f"{piece} alone", [piece]) for piece in components]
    rows += [("all components", list(components))]
    return rows + [(f"all but {piece}", [other for other in components if other != piece]) for piece in components]


def untouched_student(bench: Bench, options: argparse.Namespace) -> HybridGDNForCausalLM:
    kinds = ["full_attention"] * bench.teacher.config.num_hidden_layers
    layer_types = [kind if i in options.retained else "linear_attention" for i, kind in enumerate(kinds)]
    torch.manual_seed(options.seed)  # new gates start at random
    return build_student(bench.teacher, layer_types).requires_grad_(False)


def captured_layers(
    bench: Bench, student: HybridGDNForCausalLM, options: argparse.Namespace
) -> Iterator[tuple[int, CapturedAttention, CapturedAttention, dict[str, Any]]]:
    """(layer, what its attention did on the text, on held-out text, scaling of its softmax) of each converted layer."""
    blocks = bench.blocks(options.tokens, options.sequence_length)
    held_out = max(1, len(blocks) // 16)
    batch = blocks_at_once(options.sequence_length)
    streams = [LayerStream(bench.teacher.base_model, part, batch) for part in (blocks[:-held_out], blocks[-held_out:])]
    for layer in range(max(student.config.linear_layers) + 1):
        if layer not in student.config.linear_layers:
            for stream in streams:
                stream.advance(layer)
            continue
        fitted, unseen = (stream.advance_and_capture(layer) for stream in streams)
        attention = find_attention(find_decoder_layers(bench.teacher.base_model)[layer])[1]
        yield layer, fitted, unseen, {"scaling": attention.scaling}


def weights_of(student: HybridGDNForCausalLM, layer: int) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in mixer_of(student, layer).state_dict().items()}


def measure(
    bench: Bench, student: HybridGDNForCausalLM, results: Results, name: str, errors: list[float], seconds: float
) -> None:
    found = evaluate_blocks(student, bench.validation, bench.teacher, batch_size=4)
    assert found.teacher_perplexity is not None
    row: dict[str, Any] = {"closed form": name.replace("_", " "), "perplexity": found.perplexity}
    row |= {"x teacher": found.perplexity / found.teacher_perplexity, "KL": found.kl}
    row |= {"error of layers": sum(errors) / len(errors), "seconds": seconds}
    results.add(**row, layer_errors=errors, teacher_perplexity=found.teacher_perplexity)


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="ablation.json")
    add_bench_arguments(parser)
    add_retained_argument(parser)
    parser.add_argument("--tokens", type=int, default=65_536, help="of calibration, held-out ones included")
    parser.add_argument("--sequence-length", type=int, default=1024)
    parser.add_argument("--table", type=Path, default=Path("ablation.md"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
