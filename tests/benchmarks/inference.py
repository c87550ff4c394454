# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Prefill and decoding of a student against its teacher at growing lengths: time, memory, ratios.

    python -m tests.benchmarks.inference [--shape 8b] [--lengths 4096 32768 131072] [--decode eager compiled]

Random weights in bfloat16. Prefill is one forward of the whole prompt into a dynamic cache, logits of the last token
alone. A decode step is one token of each row; eager with a dynamic cache, compiled with a static one. With --batch-at
LENGTH the largest batch whose cache fits is decoded too, for tokens a second.
"""

import argparse
import gc
from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from hf_tc.modeling.library_cache import cache_argument

from .bench import Results, parser_of
from .shapes import SHAPES, built, peak_gb, seconds_of, student, teacher

COLUMNS = ["model", "length", "batch", "prefill s", "peak GB", "eager ms", "compiled ms", "tokens/s"]
GROWTH = 64  # tokens of room for decoding


def main() -> None:
    options = parse()
    torch.set_grad_enabled(False)
    results = Results(options.out, COLUMNS, benchmark="inference", shape=options.shape)
    results.heading(f"{results.content['machine']}, {options.shape}")
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for name, build in {"teacher": teacher, "student": student}.items():
        model = built(build(options.shape, max(options.lengths) + GROWTH), options.device, torch.bfloat16)
        for length in options.lengths:
            rows[name, length] = measured(model, length, options)
            results.add(model=name, length=length, batch=1, **rows[name, length])
        for length in options.batch_at:
            results.add(model=name, length=length, **largest_batch(model, length, options))
        del model
        gc.collect()
        torch.cuda.empty_cache()
    for length in options.lengths:
        ours, theirs = rows["student", length], rows["teacher", length]
        ratios = {key: theirs[key] / ours[key] for key in ours if ours[key] and theirs.get(key)}
        results.add(model="teacher / student", length=length, batch=1, **ratios)


def measured(model: PreTrainedModel, length: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row: seconds and peak of the prefill, milliseconds of a decode step; nothing where memory ran out."""
    ids = torch.randint(model.config.vocab_size, (1, length), device=options.device)
    row: dict[str, Any] = {}
    try:
        prefill = lambda: model(ids, logits_to_keep=1, **cache_argument(DynamicCache()))  # noqa: E731
        row["prefill s"] = seconds_of(prefill, 2, 3 if length < 65_536 else 1)
        row["peak GB"] = peak_gb(prefill)
        for form in options.decode:
            row[f"{form} ms"] = 1e3 * decode_seconds(model, ids, form, options)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
    return row


def decode_seconds(model: PreTrainedModel, ids: torch.Tensor, form: str, options: argparse.Namespace) -> float:
    batch, length = ids.shape
    cache: Cache = DynamicCache()
    step: Callable[..., Any] = model
    if form == "compiled":
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=length + GROWTH)
        step = torch.compile(model, mode="reduce-overhead", fullgraph=False)
    model(ids, logits_to_keep=1, **cache_argument(cache))
    token, position = ids[:, -1:], torch.full((batch, 1), length, device=ids.device)

    def decode() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        step(input_ids=token, position_ids=position, **cache_argument(cache))

    return seconds_of(decode, 8, 20)


def largest_batch(model: PreTrainedModel, length: int, options: argparse.Namespace) -> dict[str, Any]:
    """Doubles the rows until memory runs out; a cache of copies of one prompt's."""
    best: dict[str, Any] = {}
    batch = 1
    while True:
        try:
            torch.cuda.empty_cache()
            cache = DynamicCache()
            ids = torch.randint(model.config.vocab_size, (1, length), device=options.device)
            model(ids, logits_to_keep=1, **cache_argument(cache))
            cache.batch_repeat_interleave(batch)
            token, position = ids[:, -1:].expand(batch, 1), torch.full((batch, 1), length, device=ids.device)
            decode = lambda: model(input_ids=token, position_ids=position, **cache_argument(cache))  # noqa: B023, E731
            seconds = seconds_of(decode, 2, 5)
        except torch.cuda.OutOfMemoryError:
            return best
        best = {"batch": batch, "eager ms": 1e3 * seconds, "tokens/s": round(batch / seconds)}
        del cache, decode
        batch *= 2


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="inference.json")
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 32_768, 131_072])
    parser.add_argument("--decode", nargs="*", choices=["eager", "compiled"], default=["eager", "compiled"])
    parser.add_argument("--batch-at", type=int, nargs="*", default=[], help="lengths to decode large batches at")
    return parser.parse_args()


if __name__ == "__main__":
    main()
