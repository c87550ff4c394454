# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A tiny teacher with its tokenizer and text, and what must not change about a model."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from planted import tiny_teacher
from student_folders import VOCABULARY, letter_tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tc.report.records import ConversionReport

LENGTH, TOKENS = 32, 256
QUICK: dict[str, Any] = {"calibration_tokens": TOKENS, "sequence_length": LENGTH, "alignment_steps": 2}
# What plans are made of: sizes of a large teacher, which no test builds.
QWEN3_8B = {
    "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "dtype": "bfloat16",
}  # fmt: skip


def letter_teacher(family: str = "qwen3", **changes: Any) -> PreTrainedModel:
    """Random, three layers, with an embedding for each of the letter tokenizer's tokens."""
    return tiny_teacher(family, vocab_size=len(VOCABULARY) + 1, **changes)


def teacher_folder(folder: Path, dtype: torch.dtype = torch.float32, **saving: Any) -> Path:
    letter_teacher().to(dtype).save_pretrained(folder, **saving)
    letter_tokenizer().save_pretrained(folder)
    return folder


def text_file(path: Path, letters: int = 1000, seed: int = 0) -> Path:
    chosen = random.Random(seed).choices(VOCABULARY[4:-1], k=letters)
    path.write_text("".join(chosen), encoding="utf-8")
    return path


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal_states(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def circumstances(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a conversion must leave as it was, but for its weights."""
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "types": [type(module) for module in model.modules()],
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "storage": {name: p.data_ptr() for name, p in model.named_parameters()},
        "config": model.config.to_dict(),
        "generation_config": model.generation_config.to_dict(),
    }


def without_times(report: ConversionReport) -> ConversionReport:
    return replace(report, seconds=0.0, stage_seconds={}, layers=[replace(row, seconds=0.0) for row in report.layers])
