# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc select`."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from hf_tc.cli.convert import add_calibration_data, add_share, calibration_data, setting_options
from hf_tc.cli.shared import add_command, add_old_name, add_setting, add_settings, console
from hf_tc.resume.arguments import replace_file
from hf_tc.resume.unfinished_work import check_writable, unfinished_folder


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "select",
        run,
        "ranks a teacher's layers by how much they are worth retaining, and converts nothing",
        "Qwen/Qwen3-0.6B --out selection.json --data books.txt --layer-policy greedy --retain 0.25",
    )
    parser.add_argument("teacher", help="folder or Hub id")
    parser.add_argument("--out", type=Path, required=True, help="file for the ranking; must not exist")
    add_calibration_data(parser)
    add_share(parser)
    add_setting(parser, "mixer_form")
    add_settings(parser, "mixer", "alignment", "joint")
    add_old_name(parser, "--calibration-seq-len", "sequence_length")


def run(options: argparse.Namespace) -> None:
    from hf_tc.convert import select_layers

    out: Path = options.out
    if out.exists():
        raise ValueError(f"{out} exists. Choose another --out, or remove it.")
    unfinished = unfinished_folder(out)
    check_writable(unfinished)
    selection = select_layers(
        options.teacher,
        calibration_data=calibration_data(options),
        checkpoint_dir=unfinished,
        **setting_options(options),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, selection.save)
    shutil.rmtree(unfinished, ignore_errors=True)
    if selection.ranking:
        console.print(selection.table())
        console.print(f"Score: {selection.score_meaning}. Cost: {selection.cost}.", highlight=False)
    console.print(f"Retained layers: {','.join(map(str, selection.retained_layers))}", highlight=False)
    console.print(f"Next: hf-tc convert {options.teacher} --out STUDENT --retained-layers {out}", soft_wrap=True)
