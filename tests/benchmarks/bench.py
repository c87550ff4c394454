# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the measuring programs share: the bench teacher and its text, a clock, and results that are never lost."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hf_tc.data.token_blocks import blocks_of, bos_prefix, joined_tokens, read_documents, token_blocks

TEXT_TOKENS = 2_000_000  # read of the calibration text; every budget draws its blocks from all of it
# Steps of four times the default's tokens, and what was measured to go with them: where both sides of a comparison are
# to take steps of the same size, and where figures are from before the default was changed.
LARGE_BATCHES: dict[str, Any] = {"batch_tokens": 8192, "gate_learning_rate": 2.7e-3, "teacher_step": 1.1e-2}


def parser_of(description: str | None, *, out: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(out), help="JSON file of all rows, rewritten at each row")
    return parser


def add_retained_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--retained", type=int, nargs="*", default=[0, 4, 8])


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--calibration", required=True, nargs="+", help="text that the validation text is not part of")
    parser.add_argument("--validation", required=True)
    parser.add_argument("--validation-blocks", type=int, default=32)
    parser.add_argument("--text-tokens", type=int, default=TEXT_TOKENS)


class Bench:
    """Teacher, calibration text and validation blocks `[N, 1024]` of one run."""

    def __init__(self, options: argparse.Namespace) -> None:
        tokenizer = AutoTokenizer.from_pretrained(options.teacher)
        teacher = AutoModelForCausalLM.from_pretrained(options.teacher, dtype=torch.float32)
        self.teacher: PreTrainedModel = teacher.to(options.device).eval()
        documents = read_documents(options.calibration)
        self._text, self._prefix = joined_tokens(documents, tokenizer, options.text_tokens), bos_prefix(tokenizer)
        self.seed = options.seed
        validation = read_documents(options.validation)
        self.validation = token_blocks(validation, tokenizer, 1024, options.validation_blocks * 1024)

    def blocks(self, tokens: int, length: int) -> Tensor:
        """Token ids `[tokens // length, length]`, drawn from all of the calibration text."""
        blocks = blocks_of(self._text, self._prefix, length)
        order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(self.seed))
        return blocks[order[: tokens // length]]


class Results:
    """Rows of one table: printed as Markdown and written to the file as soon as they are known."""

    def __init__(self, path: Path, columns: list[str], **about: Any) -> None:
        self.path, self.columns = path, columns
        self.content: dict[str, Any] = {**about, **machine(), "rows": []}
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def heading(self, title: str) -> None:
        print(f"\n{title}\n\n{self._head}", flush=True)

    def add(self, **row: Any) -> None:
        """A row; what no column is named after goes to the file alone."""
        self.content["rows"].append(row)
        self.path.write_text(json.dumps(self.content, indent=1))
        print(self._line(row), flush=True)

    @property
    def markdown(self) -> str:
        """The table so far."""
        return "\n".join([self._head, *map(self._line, self.content["rows"])]) + "\n"

    @property
    def _head(self) -> str:
        return f"| {' | '.join(self.columns)} |\n|{'---|' * len(self.columns)}"

    def _line(self, row: dict[str, Any]) -> str:
        return f"| {' | '.join(_cell(row.get(column, '')) for column in self.columns)} |"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.3f}" if abs(value) < 10 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {"machine": device, "torch": torch.__version__}


def clock() -> float:
    """Seconds, once the device has done all it was asked to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
