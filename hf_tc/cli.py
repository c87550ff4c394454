# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The command `hf-tc`: one function per subcommand, each a thin layer over the Python interface."""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from rich.console import Console
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from hf_tc.output_folder import check_writable, refuse_occupied

console = Console(stderr=True)
# What goes wrong outside this program: options, files, the network, missing packages, memory.
EXPECTED_ERRORS = (ValueError, OSError, ImportError, RuntimeError, SafetensorError, StrictDataclassError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; errors of the user's making are one line on stderr and exit status 2."""
    options = build_parser().parse_args(arguments)
    if getattr(options, "json", False):
        logging.set_verbosity_error()
    try:
        # Whatever a library prints goes to stderr: with --json, stdout is for the result alone.
        with contextlib.redirect_stdout(sys.stderr):
            result = options.run(options)
    except EXPECTED_ERRORS as error:
        message = " ".join(f"hf-tc {options.command}: {error}".split())
        console.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    if result is not None:
        print(json.dumps(result))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("hf-tc", description="Turn Transformer language models into hybrids.")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = _command(commands, "demo", run_demo, "convert the packaged teacher and show what happened", "")
    demo.add_argument(
        "--out", type=Path, default=Path("hf-tc-demo"), help="folder of the student (default: %(default)s)"
    )

    convert = _command(
        commands,
        "convert",
        run_convert,
        "teacher in, calibrated student out",
        "Qwen/Qwen3-0.6B --out student --data books.txt --retain 0.25",
    )
    convert.add_argument("teacher", help="folder or Hub id")
    convert.add_argument("--out", type=Path, required=True, help="folder of the student; must not exist or be empty")
    convert.add_argument("--evaluation-data", nargs="+", help="text on which perplexities are measured")
    _add_conversion_options(convert)

    distill = _command(
        commands,
        "distill",
        run_distill,
        "train a student on its teacher's predictions",
        "student --teacher Qwen/Qwen3-0.6B --data books.txt --out distilled --tokens 1000000",
    )
    distill.add_argument("student", help="folder or Hub id")
    distill.add_argument("--teacher", required=True, help="folder or Hub id")
    distill.add_argument("--data", required=True, nargs="+", help="text, JSON lines, parquet, or name[:split[:column]]")
    distill.add_argument("--out", type=Path, required=True, help="folder of the distilled student")
    distill.add_argument("--tokens", type=int, required=True, help="tokens to train on")
    distill.add_argument("--seq-len", type=int, default=1024)
    distill.add_argument("--batch-size", type=int, default=8, help="blocks per step and device")
    distill.add_argument("--learning-rate", type=float, default=3e-4)
    distill.add_argument("--seed", type=int, default=0)

    evaluate = _command(
        commands,
        "evaluate",
        run_evaluate,
        "perplexity; with a teacher also KL and top-1 agreement",
        "student --data books-val.txt --teacher Qwen/Qwen3-0.6B --json",
    )
    evaluate.add_argument("model", help="folder or Hub id of any causal LM, student or not")
    evaluate.add_argument(
        "--data", required=True, nargs="+", help="text, JSON lines, parquet, or name[:split[:column]]"
    )
    evaluate.add_argument("--teacher", help="folder or Hub id")
    evaluate.add_argument("--seq-len", type=int, default=1024)
    evaluate.add_argument("--max-tokens", type=int, help="tokens of text to use at most")
    evaluate.add_argument("--batch-size", type=int, default=4)
    evaluate.add_argument("--device", default=None, help="default: cuda if there is one")
    evaluate.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")

    push = _command(commands, "push", run_push, "upload a student's folder to the Hub", "student me/qwen3-hybrid")
    push.add_argument("folder", type=Path)
    push.add_argument("repo", help="user/name on the Hub")
    push.add_argument("--private", action="store_true")

    serve = _command(
        commands,
        "serve",
        run_serve,
        "serve a student over HTTP; further options go to `transformers serve`",
        "student --port 8001",
    )
    serve.add_argument("folder", type=Path)
    serve.add_argument("serve_arguments", nargs=argparse.REMAINDER, help="options of `transformers serve`")
    return parser


def _command(commands: Any, name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text, epilog=f"example: hf-tc {name} {example}")
    command.set_defaults(run=run)
    return command


def _add_conversion_options(parser: argparse.ArgumentParser) -> None:
    retained = parser.add_mutually_exclusive_group()
    retained.add_argument("--retain", type=float, default=0.25, help="share of layers that keep attention (0.25)")
    retained.add_argument("--retained-layers", type=_indices, metavar="0,4,8", help="their indices instead of a share")
    parser.add_argument("--data", nargs="+", help="calibration text; default: the packaged sample")
    parser.add_argument("--calibration-tokens", type=int, default=65_536)
    parser.add_argument("--calibration-seq-len", type=int, default=1024, help="tokens per calibration block")
    parser.add_argument("--alignment-steps", type=int, default=300, help="0: the closed form alone")
    parser.add_argument("--device", default=None, help="default: cuda if there is one")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of the teacher and the student (default: as the teacher is stored)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allow-unreviewed", action="store_true", help="convert a family that was not reviewed")


def _indices(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part.strip()]


def run_demo(options: argparse.Namespace) -> None:
    from hf_tc.demo import demo

    refuse_occupied(options.out)
    check_writable(options.out)
    demo(options.out, console)


def run_convert(options: argparse.Namespace) -> None:
    from hf_tc.convert import from_teacher

    refuse_occupied(options.out)
    unfinished = options.out.with_name(options.out.name + ".unfinished")
    check_writable(options.out)
    student = from_teacher(
        options.teacher,
        calibration_data=_one_or_many(options.data),
        evaluation_data=_one_or_many(options.evaluation_data),
        retained_layers=options.retain if options.retained_layers is None else options.retained_layers,
        calibration_tokens=options.calibration_tokens,
        sequence_length=options.calibration_seq_len,
        alignment_steps=options.alignment_steps,
        device=options.device,
        dtype=options.dtype,
        seed=options.seed,
        allow_unreviewed=options.allow_unreviewed,
        checkpoint_dir=unfinished,
    )
    student.save_pretrained(options.out)
    shutil.rmtree(unfinished)
    student.conversion_report.print(console)
    console.print(
        f"Student in {options.out}. Next: hf-tc evaluate {options.out} --data FILE --teacher {options.teacher}"
    )


def run_distill(options: argparse.Namespace) -> None:
    from hf_tc.distillation.distill import distill

    refuse_occupied(options.out)
    check_writable(options.out)
    distill(
        options.student,
        options.teacher,
        _one_or_many(options.data),
        options.out,
        tokens=options.tokens,
        seq_len=options.seq_len,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    console.print(f"Distilled student in {options.out}. Next: hf-tc push {options.out} USER/NAME")


def run_evaluate(options: argparse.Namespace) -> dict[str, Any] | None:
    from hf_tc.evaluation import evaluate

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    teacher = None
    if options.teacher is not None:
        teacher = AutoModelForCausalLM.from_pretrained(options.teacher, dtype="auto")
    result = evaluate(
        AutoModelForCausalLM.from_pretrained(options.model, dtype="auto"),
        AutoTokenizer.from_pretrained(options.model),
        _one_or_many(options.data),
        teacher,
        seq_len=options.seq_len,
        max_tokens=options.max_tokens,
        batch_size=options.batch_size,
        device=device,
        show_progress=not options.json,
    ).to_dict()
    if options.json:
        return result
    for name, value in result.items():
        shown = f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
        console.print(f"{name.replace('_', ' '):>20}: {shown}", highlight=False)
    return None


def run_push(options: argparse.Namespace) -> None:
    from hf_tc.hub import push_folder

    console.print(f"Uploaded: {push_folder(options.folder, options.repo, private=options.private)}")


def run_serve(options: argparse.Namespace) -> None:
    from hf_tc.serving import serve

    serve(options.folder, options.serve_arguments)


def _one_or_many(data: list[str] | None) -> str | list[str] | None:
    return data[0] if data is not None and len(data) == 1 else data


if __name__ == "__main__":
    sys.exit(main())
