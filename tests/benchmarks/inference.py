# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Prefill and decoding of a student against its teacher at growing lengths: time, memory, ratios.

    python -m tests.benchmarks.inference [--shape 8b] [--lengths 4096 32768 131072] [--plot FILE]

Random weights in bfloat16. Prefill is one forward of the whole prompt into a dynamic cache, logits of the last token
alone. A decode step is one token of each row; eager with a dynamic cache, compiled with a static one, both filled with
random numbers: a prefill into a static cache is longer than its keys, for which PyTorch's attention makes a T x T map.
With --batch-at LENGTH the largest batch whose cache fits is decoded too, for tokens a second.
"""

import argparse
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer

from hf_tc.modeling.cache import GDNCacheLayer
from hf_tc.modeling.library_cache import cache_argument

from .bench import Results, parser_of
from .inference_plot import draw
from .shapes import SHAPES, built, peak_gb, seconds_of, student, teacher

COLUMNS = ["model", "length", "batch", "prefill s", "peak GB", "eager ms", "compiled ms", "decode GB", "tokens/s"]
LENGTHS = [2**power for power in range(12, 18)]  # 4k to 128k
GROWTH = 64  # tokens of room for decoding
MOST_ROWS = 1024  # of a batch that is decoded, where memory does not end first


@torch.no_grad()
def main() -> None:
    options = parse()
    results = Results(options.out, COLUMNS, benchmark="inference", shape=options.shape)
    results.heading(f"{results.content['machine']}, {options.shape}")
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for name, build in {"teacher": teacher, "student": student}.items():
        model = built(build(options.shape, max(options.lengths) + GROWTH), options.device, torch.bfloat16)
        for length in options.lengths:
            rows[name, length] = prefill(model, length, options) | decoding(model, length, options)
            results.add(model=name, length=length, batch=1, **rows[name, length])
        for length in options.batch_at:
            results.add(model=name, length=length, **largest_batch(model, length, options))
        del model
        release()
    for length in options.lengths:
        ours, theirs = rows["student", length], rows["teacher", length]
        ratios = {key: theirs[key] / ours[key] for key in ours if ours[key] and theirs.get(key)}
        results.add(model="teacher / student", length=length, batch=1, **ratios)
    if options.plot is not None:
        draw([{"model": name, "length": length, **row} for (name, length), row in rows.items()], options.plot)


def prefill(model: PreTrainedModel, length: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak of reading a prompt; nothing where memory ran out."""
    ids = torch.randint(model.config.vocab_size, (1, length), device=options.device)
    read = lambda: model(ids, logits_to_keep=1, **cache_argument(DynamicCache()))  # noqa: E731
    try:
        return {"prefill s": seconds_of(read, 1, 3 if length < 65_536 else 1), "peak GB": peak_gb(read)}
    except torch.OutOfMemoryError:
        return {}


def decoding(model: PreTrainedModel, length: int, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a decode step in each form, and the peak of the last; without a form that memory ran out for."""
    row: dict[str, float] = {}
    for form in options.decode:
        release()
        try:
            row |= decoding_in(form, model, length, options.device)
        except torch.OutOfMemoryError:
            continue
        finally:
            torch.compiler.reset()  # lets go of the graphs of this length
    return row


def decoding_in(form: str, model: PreTrainedModel, length: int, device: str) -> dict[str, float]:
    decode = decode_step(model, form, 1, length, device)
    return {f"{form} ms": 1e3 * seconds_of(decode, 8, 20), "decode GB": peak_gb(decode)}


def release() -> None:
    """Gives the memory of what is gone back to the GPU."""
    gc.collect()
    torch.cuda.empty_cache()


def decode_step(model: PreTrainedModel, form: str, batch: int, length: int, device: str) -> Callable[[], None]:
    """What decodes one token of each row after `length` tokens."""
    cache: Cache = DynamicCache()
    step: Callable[..., Any] = model
    if form == "compiled":
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=length + GROWTH)
        step = torch.compile(model, mode="reduce-overhead", fullgraph=False)
    token = torch.ones(batch, 1, dtype=torch.long, device=device)
    model(token, **cache_argument(cache))
    fill(cache, length)
    position = torch.full((batch, 1), length, device=device)

    def decode() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        step(input_ids=token, position_ids=position, **cache_argument(cache))

    return decode


def fill(cache: Cache, length: int) -> None:
    """Makes a cache of one token one of `length` tokens: random keys and values, in place where they have an address.

    The states of recurrent layers are as large after one token as after many.
    """
    for layer in cache.layers:
        if isinstance(layer, StaticLayer):
            layer.keys.normal_()
            layer.values.normal_()
        elif not isinstance(layer, GDNCacheLayer):
            layer.keys, layer.values = (
                x.new_empty(*x.shape[:2], length, x.shape[3]).normal_() for x in (layer.keys, layer.values)
            )
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length += length - 1


def largest_batch(model: PreTrainedModel, length: int, options: argparse.Namespace) -> dict[str, Any]:
    """Doubles the rows until memory runs out."""
    best: dict[str, Any] = {}
    batch = 1
    while batch <= MOST_ROWS:
        release()
        try:
            seconds = seconds_of(decode_step(model, "eager", batch, length, options.device), 2, 5)
        except torch.OutOfMemoryError:
            break
        best = {"batch": batch, "eager ms": 1e3 * seconds, "tokens/s": round(batch / seconds)}
        batch *= 2
    return best


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="inference.json")
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--decode", nargs="*", choices=["eager", "compiled"], default=["eager", "compiled"])
    parser.add_argument("--batch-at", type=int, nargs="*", default=[], help="lengths to decode large batches at")
    parser.add_argument("--plot", type=Path, help="picture of time and memory over the lengths")
    return parser.parse_args()


if __name__ == "__main__":
    main()
