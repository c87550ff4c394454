# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The packaged tiny teacher and sample text; PROVENANCE.md beside this file says where they come from."""

from importlib.resources import files
from pathlib import Path
from typing import Literal

__all__ = ["sample_text_path", "tiny_teacher_path"]


def tiny_teacher_path() -> Path:
    """Folder of the packaged teacher, a 2.5 M parameter Qwen3 that writes simple English.

    `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load it. It was trained on windows of up
    to 2,048 tokens, which is also its `max_position_embeddings`.
    """
    return Path(str(files(__package__) / "tiny_teacher"))


def sample_text_path(split: Literal["calibration", "heldout"]) -> Path:
    """File of public-domain book excerpts that the tiny teacher was not trained on, separated by `<|endoftext|>`.

    Args:
        split: "calibration" (six books, about 104k tokens of the tiny teacher's tokenizer) to fit a student on, or
            "heldout" (five other books, about 44k tokens) to measure it on. The two share no book.

    Raises:
        ValueError: for any other split.
    """
    if split not in ("calibration", "heldout"):
        raise ValueError(f"split={split!r}: the packaged sample text has the splits 'calibration' and 'heldout'.")
    return Path(str(files(__package__) / f"sample_{split}.txt"))
