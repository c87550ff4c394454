# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc select`."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tc.cli.convert import add_calibration_data, add_share, calibration_data, setting_options
from hf_tc.cli.shared import add_command, add_old_name, add_setting, add_settings, console
from hf_tc.resume.arguments import replace_file
from hf_tc.resume.unfinished_work import check_writable, unfinished_folder

if TYPE_CHECKING:
    from hf_tc.selection import LayerSelection

PICTURE = ".png"


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "select",
        run,
        "ranks a teacher's layers by how much they are worth retaining, and converts nothing",
        "Qwen/Qwen3-0.6B --out selection.json --data books.txt --layer-policy greedy --retain 0.25",
    )
    parser.add_argument("teacher", help="folder or Hub id")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="file for the ranking, JSON; its scores as a picture are beside it, as .png; neither may exist",
    )
    add_calibration_data(parser)
    add_share(parser)
    add_setting(parser, "mixer_form")
    add_settings(parser, "mixer", "alignment", "joint")
    add_old_name(parser, "--calibration-seq-len", "sequence_length")


def run(options: argparse.Namespace) -> None:
    from hf_tc.convert import select_layers

    out: Path = options.out
    picture = _free_picture(out)
    unfinished = unfinished_folder(out)
    check_writable(unfinished)
    selection = select_layers(
        options.teacher,
        calibration_data=calibration_data(options),
        checkpoint_dir=unfinished,
        **setting_options(options),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    if selection.ranking:
        from hf_tc.report.selection_plot import selection_png

        replace_file(picture, lambda part: part.write_bytes(selection_png(selection)))
    replace_file(out, selection.save)  # the last: where it is, all is done
    shutil.rmtree(unfinished, ignore_errors=True)
    _show(selection, out, picture)
    console.print(f"Next: hf-tc convert {options.teacher} --out STUDENT --retained-layers {out}", soft_wrap=True)


def _free_picture(out: Path) -> Path:
    """Where the picture goes. Raises `ValueError` where it or `out` exists, or both would have one name."""
    if out.exists():
        raise ValueError(f"{out} exists. Choose another --out, or remove it.")
    if out.suffix.lower() == PICTURE:
        raise ValueError(f"{out} is the name of a picture. Choose another --out, such as {out.with_suffix('.json')}.")
    picture = out.with_suffix(PICTURE)
    if picture.exists():
        raise ValueError(f"{picture}, for the picture, exists. Choose another --out, or remove it.")
    return picture


def _show(selection: "LayerSelection", out: Path, picture: Path) -> None:
    written = f"The selection is in {out}."
    if selection.ranking:
        console.print(selection.table())
        console.print(f"Score: {selection.score_meaning}. Cost: {selection.cost}.", highlight=False)
        written = f"The selection is in {out}, its scores as a picture in {picture}."
    console.print(f"Retained layers: {','.join(map(str, selection.retained_layers))}", highlight=False)
    console.print(written, highlight=False, soft_wrap=True)
