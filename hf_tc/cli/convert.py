# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc convert`."""

import argparse
from pathlib import Path
from typing import Any

from hf_tc.cli.shared import (
    DATA_HELP,
    DEFAULT,
    add_command,
    add_old_name,
    add_setting,
    add_settings,
    arguments_of,
    console,
    one_or_many,
)
from hf_tc.config import ConversionConfig, SelectionConfig
from hf_tc.data.mixture import SHIPPED_SAMPLE, data_of_words
from hf_tc.options import OPTIONS
from hf_tc.resume.unfinished_work import WorkFolder
from hf_tc.selection import LayerSelection


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "convert",
        run,
        "teacher in, calibrated student out",
        "Qwen/Qwen3-0.6B --out student --data books.txt --retain 0.25",
    )
    parser.add_argument("teacher", help="folder or Hub id; with --dry-run a config.json as well")
    parser.add_argument("--out", type=Path, help="folder of the student; must not exist or be empty")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, its memory and time; reads the configuration alone"
    )
    parser.add_argument("--evaluation-data", nargs="+", help=f"text on which perplexities are measured: {DATA_HELP}")
    add_calibration_data(parser)
    retained = parser.add_mutually_exclusive_group()
    add_share(retained)
    retained.add_argument(
        "--retained-layers",
        type=_chosen,
        metavar="0,4,8",
        help="their indices instead of a share, or the file that hf-tc select wrote",
    )
    add_setting(parser, "mixer_form")
    add_settings(parser, "mixer")
    add_old_name(parser, "--calibration-seq-len", "sequence_length")


def add_share(parser: Any) -> None:
    share = SelectionConfig.retained_layers
    parser.add_argument("--retain", type=float, default=share, help=f"share of layers that keep attention {DEFAULT}")


def add_calibration_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        "--calibration-data",
        nargs="+",
        metavar="SOURCE[=SHARE]",
        help=f"calibration text: {DATA_HELP}; or `sampled` from the teacher (sampled:chat, sampled:free for one kind). "
        "Of several sources with shares, such as wiki.txt=0.5 sampled=0.5, each gives its share of the tokens "
        f"(default: {SHIPPED_SAMPLE}, and on a GPU as much or more sampled text)",
    )


def calibration_data(options: argparse.Namespace) -> Any:
    """What `add_calibration_data` parsed, as `from_teacher` takes it."""
    return None if options.data is None else data_of_words(options.data)


def setting_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_share`, `--retained-layers` and `add_settings` parsed, by the names of `hf_tc.options`."""
    given = {name: value for name, value in vars(options).items() if name in OPTIONS}
    if given.get("retained_layers") is None:
        given["retained_layers"] = options.retain
    return given


def _chosen(text: str) -> list[int] | LayerSelection:
    """A value of --retained-layers; argparse shows the words of ArgumentTypeError alone."""
    way_out = "Give their indices, such as 0,4,8, or the .json file that `hf-tc select --out FILE` wrote."
    if text.endswith(".json"):
        try:
            return LayerSelection.load(text)
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{text} cannot be read: {error.strerror}. {way_out}") from error
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of layers. {way_out}") from error


def run(options: argparse.Namespace) -> None:
    from hf_tc.report.records import ConversionReport

    if options.dry_run:
        _print_plan(options)
        return
    if options.out is None:
        raise ValueError("--out is missing: the folder for the student.")
    work, arguments = WorkFolder(options.out), arguments_of(options)
    if not work.has_result(arguments):
        student = _convert(options, work.folder)
        work.save(lambda folder: student.save_pretrained(folder, repo_id=options.out.resolve().name), arguments)
    work.publish()
    ConversionReport.load(options.out).print(console)
    console.print(
        f"Student in {options.out}. Next: hf-tc evaluate {options.out} --data FILE --teacher {options.teacher}"
    )


def _print_plan(options: argparse.Namespace) -> None:
    import torch

    from hf_tc.conversion.calibration_text import CalibrationText
    from hf_tc.planning.plan import plan_conversion
    from hf_tc.planning.table import plan_table
    from hf_tc.teachers.checks import default_device, will_be_on_one_gpu
    from hf_tc.teachers.vocabulary import tokenizer_of

    text = CalibrationText(  # what is refused of it is refused here as in the conversion
        calibration_data(options),
        ConversionConfig(options.calibration_tokens, options.sequence_length),
        will_be_on_one_gpu(options.teacher, options.device, options.device_map),
    )
    if text.is_sampled:
        text.check_sampling(tokenizer_of(options.teacher))
    plan = plan_conversion(options.teacher, **setting_options(options))
    device = torch.device(options.device or default_device())
    console.print(f"Calibration text: {text.name}", soft_wrap=True, highlight=False)
    offloads = options.device_map is not None
    console.print(plan_table(plan, device, sampled_tokens=text.sampled_tokens, may_offload=offloads))


def _convert(options: argparse.Namespace, unfinished: Path) -> Any:
    from hf_tc.convert import from_teacher

    return from_teacher(
        options.teacher,
        calibration_data=calibration_data(options),
        evaluation_data=one_or_many(options.evaluation_data),
        checkpoint_dir=unfinished,
        **setting_options(options),
    )
