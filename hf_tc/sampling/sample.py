# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Text sampled from a teacher as rows or as a file of them: what `hf-tc sample` does."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tc.data.text_or_path import BOTH
from hf_tc.resume.arguments import replace_file
from hf_tc.resume.unfinished_work import check_writable, unfinished_folder
from hf_tc.sampling.prompts import kinds_of
from hf_tc.sampling.sampled_text import DOCUMENT_TOKENS, as_rows, sampled_text, write_documents
from hf_tc.teachers.adapters import check_no_adapter
from hf_tc.teachers.checks import load_teacher
from hf_tc.teachers.finite_weights import check_finite_weights
from hf_tc.teachers.vocabulary import check_vocabulary, tokenizer_of

ROW_SUFFIXES = (".jsonl", ".ndjson")


def sample_text(
    teacher: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    tokens: int,
    kind: str = BOTH,
    document_tokens: int = DOCUMENT_TOKENS,
    seed: int = 0,
    device: str | torch.device | None = None,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Text that a model writes by its own probabilities (temperature 1), to calibrate its student on.

    Conversations are sampled turn by turn inside the chat template, the user's turn too (Magpie, arXiv 2406.08464).
    Documents that are empty, repeat themselves or each other, or in which the user does not stop, are replaced.

    Args:
        teacher: a causal language model, a folder or a Hub id; one by name is loaded in bfloat16 on a GPU.
        tokenizer: defaults to the teacher's own.
        tokens: of all documents, chat template included; the last document may go beyond.
        kind: "chat" for conversations, "free" for text from the start token, "both" for half the tokens each; free text
            alone where there is no chat template.
        document_tokens: of a document at most; longer ones are cut there.
        seed: the same one gives the same text on the same machine.
        device: where a teacher given by name is loaded; a model is moved there.
        out: a file for the rows, `.jsonl`. What is sampled is kept beside it until it is complete, and the same call
            goes on there after an interruption.

    Returns:
        Rows `{"messages": ...}` and `{"text": ...}`, which `from_teacher` takes as `calibration_data`, as it does the
        file.

    Raises:
        ValueError: no such text can be sampled from the teacher, most of it is of no use, a weight of the teacher is
            NaN or infinite, or the file cannot be written; the message says why.
    """
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}; at least 1 is needed.")
    folder = None if out is None else _unfinished(Path(out))
    check_no_adapter(teacher)
    if (known := tokenizer or tokenizer_of(teacher)) is not None:
        kinds_of(kind, known)
    on_gpu = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
    teacher, tokenizer = load_teacher(teacher, tokenizer, device, dtype=torch.bfloat16 if on_gpu else "auto")
    check_vocabulary(tokenizer, teacher)
    check_finite_weights(teacher, "teacher")
    documents = sampled_text(
        teacher, tokenizer, tokens, kind, seed=seed, document_tokens=document_tokens, folder=folder
    )
    if out is not None and folder is not None:
        replace_file(Path(out), lambda part: write_documents(part, documents))
        shutil.rmtree(folder, ignore_errors=True)
    return as_rows(documents)


def _unfinished(file: Path) -> Path:
    """The folder for unfinished work beside a file that can be written."""
    if file.suffix.lower() not in ROW_SUFFIXES:
        raise ValueError(f"{file} is to hold JSON lines; its name must end with {' or '.join(ROW_SUFFIXES)}.")
    if file.exists():
        raise ValueError(f"{file} exists. Choose another file, or remove it.")
    check_writable(file)
    return unfinished_folder(file)
