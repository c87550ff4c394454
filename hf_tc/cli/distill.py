# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc distill`."""

import argparse
from pathlib import Path
from typing import Any

from hf_tc.cli.shared import DATA_HELP, DEFAULT, add_command, add_sequence_length, console, one_or_many
from hf_tc.config import TRAINS


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "distill",
        run,
        "train a student on its teacher's predictions",
        "student --teacher Qwen/Qwen3-0.6B --data books.txt --out distilled --tokens 1000000",
    )
    parser.add_argument("student", help="folder or Hub id")
    parser.add_argument("--teacher", help="folder or Hub id")
    parser.add_argument("--teacher-cache", help="in its place: what hf-tc cache-teacher wrote, whose text is learned")
    parser.add_argument("--data", nargs="+", help=f"{DATA_HELP}; that of the cache by default")
    parser.add_argument("--out", type=Path, required=True, help="folder of the distilled student")
    parser.add_argument("--tokens", type=int, required=True, help="tokens to train on")
    add_sequence_length(parser)
    parser.add_argument("--batch-size", type=int, default=8, help=f"blocks per step and device {DEFAULT}")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help=f"at its peak {DEFAULT}")
    parser.add_argument(
        "--gate-learning-rate",
        type=float,
        help="of what the teacher does not have: gates, decay, convolution, norm (default: as --learning-rate)",
    )
    parser.add_argument(
        "--trains",
        choices=TRAINS,
        default="all",
        help="weights that train: all, the recurrent mixers, norms or retained attention with them, or a LoRA adapter, "
        f"merged at the end, and the gates {DEFAULT}",
    )
    parser.add_argument("--seed", type=int, default=0, help=f"of all that is random {DEFAULT}")


def run(options: argparse.Namespace) -> None:
    from hf_tc.distillation.distill import distill

    distill(
        options.student,
        options.teacher,
        one_or_many(options.data),
        options.out,
        tokens=options.tokens,
        sequence_length=options.sequence_length,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        gate_learning_rate=options.gate_learning_rate,
        trains=options.trains,
        teacher_cache=options.teacher_cache,
        seed=options.seed,
    )
    console.print(f"Distilled student in {options.out}. Next: hf-tc push {options.out} USER/NAME")
