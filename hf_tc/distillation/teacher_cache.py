# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A teacher's predictions on disk: what a cache holds, and whether it is the one that a distillation is to learn from.

A cache is a folder of Arrow files, `shard-00000.arrow` and so on, and `teacher_cache.json`, which is written last. A
row is one block of T tokens: `input_ids` [T], and the columns of `evaluation.top_k`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hf_tc.evaluation.top_k import TOP_K_COLUMNS, TopK
from hf_tc.resume.arguments import ARGUMENTS_FILE
from hf_tc.resume.fingerprint import LETTERS
from hf_tc.resume.unfinished_work import unfinished_folder

if TYPE_CHECKING:
    from datasets import Dataset

CACHE_FILE = "teacher_cache.json"
INSTALL = "A teacher's cache needs the package datasets: pip install 'hf_tc[data]'"


@dataclass(frozen=True)
class CacheIdentity:
    """What a cache was made of. A data set of it, or of a part of it, has this as `info.description`, in JSON.

    Attributes:
        teacher: its name.
        weights: of the teacher, see `weights_fingerprint`.
        tokenizer: see `tokenizer_fingerprint`.
        vocabulary: tokens that the teacher has logits for.
        top_k: tokens whose log probabilities are known at each position.
        sequence_length: T.
    """

    teacher: str
    weights: dict[str, str]
    tokenizer: str
    vocabulary: int
    top_k: int
    sequence_length: int

    @property
    def id_type(self) -> str:
        """In which the ids of the likeliest tokens are kept."""
        return "uint16" if self.vocabulary <= 2**16 else "int32"

    @property
    def block_bytes(self) -> int:
        """Of a block on disk: each token's id, k ids, k log probabilities and two more, and where two lists begin."""
        of_id = 2 if self.id_type == "uint16" else 4
        return self.sequence_length * (4 + self.top_k * (of_id + 4) + 8 + 8)

    @property
    def description(self) -> str:
        return json.dumps({"hf_tc_teacher_cache": asdict(self)})

    @classmethod
    def of(cls, dataset: Any) -> CacheIdentity | None:
        """That of a data set; None of one that is no cache."""
        try:
            return cls(**json.loads(dataset.info.description)["hf_tc_teacher_cache"])
        except (AttributeError, TypeError, ValueError, KeyError):
            return None


def load_teacher_cache(folder: str | Path) -> Dataset:
    """The blocks and predictions that `cache_teacher` wrote to a folder, memory-mapped, as tensors.

    Raises:
        ValueError: no cache, one that was interrupted, or one that lacks files or has a damaged one.
    """
    folder = Path(folder)
    if not (folder / CACHE_FILE).is_file():
        raise ValueError(_no_cache(folder))
    try:
        from datasets import Dataset, DatasetInfo, concatenate_datasets
    except ImportError as error:
        raise ImportError(INSTALL) from error
    with _naming_damaged(folder / CACHE_FILE):
        written = json.loads((folder / CACHE_FILE).read_text(encoding="utf-8"))
        blocks, description = written["blocks"], CacheIdentity(**written["identity"]).description
    info = DatasetInfo(description=description)
    shards = []
    for path in shard_files(folder):
        with _naming_damaged(path):
            shards.append(Dataset.from_file(str(path), info=info.copy()))
    if sum(map(len, shards)) != blocks:
        raise ValueError(
            f"{folder} holds {sum(map(len, shards)):,} of {blocks:,} blocks: files are missing. Copy all of "
            "the folder, or make the cache again."
        )
    return concatenate_datasets(shards).with_format("torch")


@contextmanager
def _naming_damaged(path: Path) -> Iterator[None]:
    """Inside a file is read: where it is damaged, Arrow's and JSON's errors do not name it."""
    try:
        yield
    except (ValueError, OSError, KeyError, TypeError) as error:  # pyarrow's errors are of the first two kinds
        raise ValueError(
            f"{path} is damaged, perhaps cut off ({error}). Copy the cache again, or remove {path.parent} and make it "
            "again: hf-tc cache-teacher."
        ) from error


def is_teacher_cache(name: Any) -> bool:
    """Whether a folder holds a teacher's cache, finished or not, rather than a model."""
    if not isinstance(name, str | Path):
        return False
    return (Path(name) / CACHE_FILE).is_file() or _unfinished(Path(name)) is not None


def shard_files(folder: Path) -> list[Path]:
    """The files of blocks in a folder, in order."""
    return sorted(folder.glob("shard-*.arrow"))


def _unfinished(folder: Path) -> Path | None:
    """The folder, or that beside it, in which the work on it was interrupted."""
    for place in (folder, *([] if folder.exists() else [unfinished_folder(folder)])):
        if (place / ARGUMENTS_FILE).is_file() and '"top_k"' in (place / ARGUMENTS_FILE).read_text(encoding="utf-8"):
            return place
    return None


def _no_cache(folder: Path) -> str:
    place = _unfinished(folder)
    if place is None:
        return (
            f"{folder} is no cache of a teacher: it has no {CACHE_FILE}. Make one: hf-tc cache-teacher TEACHER --data "
            f"TEXT --tokens N --out {folder}"
        )
    return (
        f"The cache of a teacher in {place} is unfinished, with {len(shard_files(place))} files. Give the same hf-tc "
        "cache-teacher command again, which goes on there."
    )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A short name for which token has which id. Added tokens do not count: they differ between checkpoints whose ids
    mean the same."""
    added = tokenizer.get_added_vocab()
    ids = sorted((index, token) for token, index in tokenizer.get_vocab().items() if token not in added)
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:LETTERS]


def mean_rest(cache: Dataset) -> float:
    """The mean probability that the teacher gives to tokens of which a cache knows their sum alone."""
    column, total = "teacher_log_rest", 0.0
    for rows in cache.select_columns(column).with_format("torch").iter(batch_size=256):
        total += float(rows[column].double().exp().mean(-1).sum())
    return total / len(cache)


def top_k_of(batch: Mapping[str, Any]) -> TopK | None:
    """What a batch holds of a teacher's predictions, None if nothing."""
    if batch.get(TOP_K_COLUMNS[0]) is None:
        return None
    values: list[Tensor] = [batch[name] for name in TOP_K_COLUMNS]
    return TopK(*values)
