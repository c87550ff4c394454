# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc convert`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tc.cli.shared import (
    DATA_HELP,
    DEFAULT,
    add_command,
    add_device,
    add_sequence_length,
    arguments_of,
    console,
    one_or_many,
)
from hf_tc.config import DEFAULT_POLICY, LAYER_POLICIES, AlignmentConfig, ConversionConfig, joint_settings
from hf_tc.resume.output_folder import WorkFolder

if TYPE_CHECKING:
    from hf_tc.layer_selection.selection import LayerSelection


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
    add_conversion_options(parser)


def add_conversion_options(parser: argparse.ArgumentParser) -> None:
    retained = parser.add_mutually_exclusive_group()
    add_share(retained)
    retained.add_argument(
        "--retained-layers",
        type=_chosen,
        metavar="0,4,8",
        help="their indices instead of a share, or the file that hf-tc select wrote",
    )
    step = f"{AlignmentConfig.batch_tokens:,}"
    parser.add_argument(
        "--alignment-steps",
        type=int,
        default=AlignmentConfig.steps,
        help=f"gradient steps per layer, of {step} tokens or one longer block; 0: closed form {DEFAULT}",
    )
    parser.add_argument("--joint-steps", type=int, default=0, help=f"further steps of all layers together {DEFAULT}")
    add_calibration_options(parser)


def add_share(parser: Any) -> None:
    parser.add_argument("--retain", type=float, default=0.25, help=f"share of layers that keep attention {DEFAULT}")


def add_calibration_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layer-policy", choices=LAYER_POLICIES, help=f"which layers a share retains (default: {DEFAULT_POLICY})"
    )
    parser.add_argument("--data", nargs="+", help=f"calibration text: {DATA_HELP} (default: the packaged sample)")
    parser.add_argument(
        "--calibration-tokens",
        type=int,
        default=ConversionConfig.calibration_tokens,
        help=f"tokens of text to calibrate on {DEFAULT}",
    )
    add_sequence_length(parser, ConversionConfig.sequence_length, old_name="--calibration-seq-len")
    placement = parser.add_mutually_exclusive_group()
    add_device(placement)
    placement.add_argument(
        "--device-map",
        choices=("auto", "balanced", "sequential"),
        help="spread a teacher that does not fit over GPUs, host memory and disk",
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of the teacher and the student (default: %(default)s, as the teacher is stored)",
    )
    parser.add_argument("--seed", type=int, default=0, help=f"of all that is random {DEFAULT}")
    parser.add_argument("--allow-unreviewed", action="store_true", help="convert a family that was not reviewed")
    parser.add_argument(
        "--merge-adapter", action="store_true", help="the teacher is a PEFT adapter; merge it into its base model"
    )


def calibration_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_calibration_options` under the names that `from_teacher` and `select_layers` give them."""
    return {
        "calibration_data": one_or_many(options.data),
        "layer_policy": options.layer_policy,
        "calibration_tokens": options.calibration_tokens,
        "sequence_length": options.sequence_length,
        "device": options.device,
        "device_map": options.device_map,
        "dtype": options.dtype,
        "seed": options.seed,
        "allow_unreviewed": options.allow_unreviewed,
        "merge_adapter": options.merge_adapter,
    }


def _chosen(text: str) -> "list[int] | LayerSelection":
    """A value of --retained-layers; argparse shows the words of ArgumentTypeError alone."""
    way_out = "Give their indices, such as 0,4,8, or the .json file that `hf-tc select --out FILE` wrote."
    if text.endswith(".json"):
        from hf_tc.layer_selection.selection import LayerSelection

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

    from hf_tc.planning.plan import plan_conversion
    from hf_tc.planning.table import plan_table

    plan = plan_conversion(
        options.teacher,
        retained_layers=_retained(options),
        layer_policy=options.layer_policy,
        settings=ConversionConfig(
            calibration_tokens=options.calibration_tokens,
            sequence_length=options.sequence_length,
            alignment=AlignmentConfig(steps=options.alignment_steps),
            joint=joint_settings(options.joint_steps),
            seed=options.seed,
        ),
        dtype=options.dtype,
        allow_unreviewed=options.allow_unreviewed,
        merge_adapter=options.merge_adapter,
    )
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    console.print(plan_table(plan, device, may_offload=options.device_map is not None))


def _retained(options: argparse.Namespace) -> Any:
    return options.retain if options.retained_layers is None else options.retained_layers


def _convert(options: argparse.Namespace, unfinished: Path) -> Any:
    from hf_tc.convert import from_teacher

    return from_teacher(
        options.teacher,
        evaluation_data=one_or_many(options.evaluation_data),
        retained_layers=_retained(options),
        alignment_steps=options.alignment_steps,
        joint_steps=options.joint_steps,
        checkpoint_dir=unfinished,
        **calibration_arguments(options),
    )
