# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc evaluate`."""

import argparse
from typing import Any

from hf_tc.cli.shared import DATA_HELP, DEFAULT, add_command, add_sequence_length, add_setting, console, one_or_many


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "evaluate",
        run,
        "perplexity; with a teacher also KL and top-1 agreement",
        "student --data books-val.txt --teacher Qwen/Qwen3-0.6B --json",
    )
    parser.add_argument("model", help="folder or Hub id of any causal LM, student or not")
    parser.add_argument("--data", required=True, nargs="+", help=DATA_HELP)
    parser.add_argument("--teacher", help="folder or Hub id")
    add_sequence_length(parser)
    parser.add_argument("--max-tokens", type=int, help="tokens of text to use at most (default: all)")
    parser.add_argument("--batch-size", type=int, default=4, help=f"blocks at once {DEFAULT}")
    add_setting(parser, "device")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    import torch
    from transformers import AutoTokenizer

    from hf_tc.evaluation.perplexity import evaluate
    from hf_tc.teachers.loading import load_causal_lm

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    teacher = None
    if options.teacher is not None:
        teacher = load_causal_lm(options.teacher, dtype="auto")
    result = evaluate(
        load_causal_lm(options.model, dtype="auto"),
        AutoTokenizer.from_pretrained(options.model),
        one_or_many(options.data),
        teacher,
        sequence_length=options.sequence_length,
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
