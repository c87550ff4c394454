# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc sample`."""

import argparse
from pathlib import Path
from typing import Any

from hf_tc.cli.shared import DEFAULT, add_command, add_setting, console
from hf_tc.data.text_or_path import BOTH, KINDS


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "sample",
        run,
        "text that a teacher writes by its own probabilities, to calibrate its student on",
        "Qwen/Qwen3-0.6B --tokens 65536 --out sampled.jsonl",
    )
    parser.add_argument("teacher", help="folder or Hub id")
    parser.add_argument("--tokens", type=int, required=True, help="tokens of text, in whole documents")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines; must not exist")
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default=BOTH,
        help=f"conversations, text from the start token, or half of each {DEFAULT}; without a chat template free text",
    )
    add_setting(parser, "seed")
    add_setting(parser, "device")


def run(options: argparse.Namespace) -> None:
    from hf_tc.sampling.sample import sample_text

    rows = sample_text(
        options.teacher,
        tokens=options.tokens,
        kind=options.kind,
        seed=options.seed,
        device=options.device,
        out=options.out,
    )
    conversations = sum("messages" in row for row in rows)
    console.print(
        f"{conversations:,} conversations and {len(rows) - conversations:,} texts in {options.out}. "
        f"Next: hf-tc convert {options.teacher} --out STUDENT --data {options.out}",
        soft_wrap=True,
        highlight=False,
    )
