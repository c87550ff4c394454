# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc distill`."""

import argparse
from pathlib import Path
from typing import Any

from hf_tc.cli.run_options import RunOptions
from hf_tc.cli.shared import DATA_HELP, DEFAULT, add_command, add_old_name, console, one_or_many


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "distill",
        run,
        "train a student on its teacher's predictions",
        "student --teacher Qwen/Qwen3-0.6B --data books.txt --out distilled --tokens 1000000",
    )
    # The usage that argparse would make names all of the library's options: two screens.
    parser.usage = "hf-tc distill student --teacher TEACHER --data DATA --out OUT --tokens TOKENS [options]"
    parser.add_argument("student", help="folder or Hub id")
    parser.add_argument("--teacher", help="folder or Hub id; not needed with a --teacher-cache")
    parser.add_argument("--data", nargs="+", help=f"text or conversations: {DATA_HELP}; that of a cache by default")
    parser.add_argument("--out", type=Path, help="folder of the distilled student")
    parser.add_argument(
        "--config", type=Path, metavar="RUN.yaml", help="options in a YAML or JSON file, by their names"
    )
    parser.add_argument("--recipe", help=f"settings that belong together; options and --config go before it {DEFAULT}")
    parser.add_argument(
        "--evaluation-data",
        nargs="+",
        help=f"held-out text to measure the student on, before, while and after it is trained: {DATA_HELP} (default: "
        "that of its conversion, where it is beside the student, else the packaged held-out sample)",
    )
    parser.add_argument(
        "--evaluations",
        type=int,
        default=8,
        help=f"how often it is measured: at all tokens, a half, a quarter, ...; 0: never {DEFAULT}",
    )
    add_old_name(parser, "--seq-len", "sequence_length")
    late = RunOptions(parser, required=("teacher", "data", "out"))
    parser.complete, parser.check = late.complete, late.check  # type: ignore[attr-defined]  # it is of main's class


def run(options: argparse.Namespace) -> None:
    from accelerate import PartialState

    from hf_tc.cli.run_options import settings_of_options
    from hf_tc.distillation.distill import distill

    distill(
        options.student,
        options.teacher,
        one_or_many(options.data),
        options.out,
        recipe=options.recipe,
        evaluation_data=one_or_many(options.evaluation_data),
        evaluations=options.evaluations,
        **settings_of_options(options),
    )
    processes = PartialState()
    if processes.is_main_process:
        _print_curve(options.out)
        console.print(f"Distilled student in {options.out}. Next: hf-tc push {options.out} USER/NAME")
    # One that ends while others still talk to it would be aborted by gloo.
    processes.wait_for_everyone()
    processes.destroy_process_group()


def _print_curve(folder: Path) -> None:
    """What was measured on the way, where anything was."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from hf_tc.report.distillation_section import curve_table
    from hf_tc.report.records import ConversionReport

    rows = curve_table(ConversionReport.load(folder).distillations) if ConversionReport.exists(folder) else []
    if rows:
        table = Table(*rows[0], title="Student over tokens", box=SIMPLE_HEAD)
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
