# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc cache-teacher`."""

import argparse
from pathlib import Path
from typing import Any

from hf_tc.cli.shared import DATA_HELP, DEFAULT, add_command, add_sequence_length, add_setting, console, one_or_many


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "cache-teacher",
        run,
        "a teacher's predictions on a text, on disk, to distil from without the teacher",
        "Qwen/Qwen3-0.6B --data books.txt --tokens 1000000 --out cached",
    )
    parser.add_argument("teacher", help="folder or Hub id")
    parser.add_argument("--data", required=True, nargs="+", help=DATA_HELP)
    parser.add_argument("--tokens", type=int, required=True, help="tokens of the text, from its start")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    add_sequence_length(parser)
    parser.add_argument(
        "--top-k",
        type=int,
        default=64,
        help="likeliest tokens whose probabilities are kept, of all others their sum; 6 to 8 bytes each at every token "
        f"of the text {DEFAULT}",
    )
    parser.add_argument("--batch-size", type=int, default=8, help=f"blocks per forward pass {DEFAULT}")
    placement = parser.add_mutually_exclusive_group()
    add_setting(placement, "device")
    add_setting(placement, "device_map")


def run(options: argparse.Namespace) -> None:
    from hf_tc.distillation.cache_teacher import cache_teacher
    from hf_tc.distillation.teacher_cache import mean_rest, shard_files

    cache = cache_teacher(
        options.teacher,
        data=one_or_many(options.data),
        tokens=options.tokens,
        out=options.out,
        sequence_length=options.sequence_length,
        top_k=options.top_k,
        batch_size=options.batch_size,
        device=options.device,
        device_map=options.device_map,
    )
    size = sum(path.stat().st_size for path in shard_files(options.out))
    console.print(
        f"{len(cache):,} blocks of {options.sequence_length} tokens in {options.out}, {size / 2**20:,.1f} MiB; "
        f"{mean_rest(cache):.2%} of the teacher's probability is of tokens beyond the first {options.top_k}. "
        f"Next: hf-tc distill STUDENT --teacher-cache {options.out} --tokens {options.tokens} --out DISTILLED",
        soft_wrap=True,
        highlight=False,
    )
