# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Text sampled from a teacher, round by round, each kept on disk, so that an interrupted sampling goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_tc.data.conversations import Document
from hf_tc.data.text_files import read_documents
from hf_tc.data.text_or_path import BOTH
from hf_tc.memory.sampling_rows import rows_at_once
from hf_tc.resume.arguments import ARGUMENTS_FILE, record_arguments, replace_file, whole_lines
from hf_tc.resume.fingerprint import weights_fingerprint
from hf_tc.sampling.collection import Collection
from hf_tc.sampling.prompts import kinds_of, prompts_of
from hf_tc.sampling.rounds import ROUND_TOKENS, sample_round
from hf_tc.teachers.offloading import stored_weights
from hf_tc.teachers.positions import most_positions

DOCUMENT_TOKENS = 1024  # of a document at most; heads cannot be seen to look further
ROUNDS_FILE, TEXT_FILE = "rounds.jsonl", "text.jsonl"
SEEDS_OF_A_SAMPLING = 1_000_003  # a round has its own seed; more rounds than that are never needed


def sampled_text(
    teacher: PreTrainedModel,
    tokenizer: Any,
    tokens: int,
    kind: str = BOTH,
    *,
    seed: int = 0,
    document_tokens: int = DOCUMENT_TOKENS,
    folder: Path | None = None,
) -> list[Document]:
    """Documents that the teacher writes by its own probabilities: temperature 1, nothing cut off.

    Args:
        tokens: that the documents shall have as `joined_tokens` reads them; the last may go beyond.
        kind: "chat" for conversations of a user's turn and an answer, "free" for text from the start token, "both" for
            half the tokens each; free text alone where the tokenizer has no chat template.
        document_tokens: of a document at most; longer ones are cut there.
        folder: keeps what was sampled; the same call goes on there after an interruption, to the same text.

    Raises:
        CalibrationDataError: the tokenizer cannot do it, or most of what the teacher writes is of no use.
        ValueError: the folder holds text sampled with other arguments.
    """
    kinds = kinds_of(kind, tokenizer)
    prompts = prompts_of(teacher, tokenizer, kinds)
    most_tokens = min(document_tokens, most_positions(teacher) or document_tokens)
    log = None
    if folder is not None:
        weights = weights_fingerprint(tensor for _, tensor in stored_weights(teacher))
        given = {"teacher": weights, "tokens": tokens, "kinds": kinds, "seed": seed, "document_tokens": most_tokens}
        log = RoundLog(folder, given)
        if log.text.exists():
            return read_documents(log.text)
    wanted = {name: -(-tokens // len(kinds)) for name in kinds}
    collection = Collection(wanted, prompts, tokenizer, most_tokens)
    _sample(teacher, collection, seed, log)
    documents = collection.documents()
    if log is not None:
        replace_file(log.text, lambda part: write_documents(part, documents))
        log.rounds.unlink()
    return documents


def as_rows(documents: Sequence[Document]) -> list[dict[str, Any]]:
    """Rows `{"text": ...}` and `{"messages": ...}`."""
    return [{"text": document} if isinstance(document, str) else {"messages": document} for document in documents]


def write_documents(path: Path, documents: Sequence[Document]) -> None:
    """JSON lines that `read_documents` reads."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in as_rows(documents))
    path.write_text("".join(lines), encoding="utf-8")


def _sample(teacher: PreTrainedModel, collection: Collection, seed: int, log: RoundLog | None) -> None:
    """Fills the collection, first with the rounds in the log."""
    logged = log.read() if log else []
    for rows, sampled in logged:
        collection.begin(rows)
        collection.take(sampled)
    # What is begun depends on the rows: an interrupted sampling goes on with as many as it had.
    rows = logged[-1][0] if logged else rows_at_once(teacher, collection.most_tokens + ROUND_TOKENS)
    number, total = len(logged), sum(kind.wanted for kind in collection.kinds.values())
    with tqdm(total=total, desc="Sampling", unit="token", unit_scale=True, mininterval=1.0) as bar:
        while begun := collection.begin(rows):
            bar.update(collection.tokens - bar.n)
            round_seed = seed * SEEDS_OF_A_SAMPLING + number
            sampled = sample_round(teacher, begun, collection.prompts.stop_ids, collection.most_tokens, round_seed)
            if log is not None:
                log.write(rows, sampled)
            collection.take(sampled)
            number += 1
        bar.update(collection.tokens - bar.n)


class RoundLog:
    """A folder with the arguments of a sampling and what was sampled: a line a round, then the documents alone.

    Args:
        folder: made if it does not exist.
        arguments: everything the text depends on, JSON-able.

    Raises:
        ValueError: the folder has text sampled with other arguments; the message names them.
    """

    def __init__(self, folder: Path, arguments: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        record_arguments(folder / ARGUMENTS_FILE, arguments)
        self.rounds, self.text = folder / ROUNDS_FILE, folder / TEXT_FILE

    def read(self) -> list[tuple[int, list[list[int]]]]:
        """Of every round that was written whole: how many rows there was memory for, and the tokens of each row."""
        return [(row["rows"], row["sampled"]) for row in map(json.loads, whole_lines(self.rounds))]

    def write(self, rows: int, sampled: list[list[int]]) -> None:
        with self.rounds.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"rows": rows, "sampled": sampled}) + "\n")
