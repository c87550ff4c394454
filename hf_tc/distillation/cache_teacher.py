# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A teacher's predictions on a text, written to disk once, to learn from without the teacher: `hf-tc cache-teacher`."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tc.data.text_files import source_name
from hf_tc.data.token_blocks import check_enough_blocks, read_documents, token_blocks
from hf_tc.distillation.teacher_cache import (
    CACHE_FILE,
    INSTALL,
    CacheIdentity,
    load_teacher_cache,
    shard_files,
    tokenizer_fingerprint,
)
from hf_tc.evaluation.kd_loss import next_token_targets
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.evaluation.perplexity import ready
from hf_tc.evaluation.top_k import TOP_K_COLUMNS, TopK
from hf_tc.modeling.out_of_memory import memory_advice
from hf_tc.resume.arguments import ARGUMENTS_FILE, record_arguments, replace_file
from hf_tc.resume.fingerprint import fingerprint, weights_fingerprint
from hf_tc.resume.full_disk import full_disk_advice
from hf_tc.resume.unfinished_work import check_free_space, check_not_occupied, check_writable, unfinished_folder
from hf_tc.teachers.adapters import check_not_wrapped
from hf_tc.teachers.checks import load_teacher
from hf_tc.teachers.finite_weights import check_finite_weights
from hf_tc.teachers.offloading import execution_device, stored_weights
from hf_tc.teachers.positions import check_fits
from hf_tc.teachers.vocabulary import check_vocabulary, logit_count

if TYPE_CHECKING:
    from datasets import Dataset, Features

SHARD_BYTES = 2**27  # what an interruption loses at most is the work on one file


def cache_teacher(
    teacher: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    data: Any,
    tokens: int,
    out: str | Path,
    sequence_length: int = 1024,
    top_k: int = 64,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> Dataset:
    """Writes what a teacher predicts at every token of a text, and gives it back as `load_teacher_cache` does.

    Of each prediction, at temperature 1, the `top_k` likeliest tokens are kept with their log probabilities in float32,
    and that of all others together: 8 `top_k` + 20 bytes a token, 6 `top_k` + 20 where the vocabulary has 65,536 tokens
    or fewer. What training on it loses is in
    `hf_tc.evaluation.top_k`; with the whole vocabulary it is nothing. What is written is kept in `out` + ".unfinished"
    until it is complete, and the same call goes on there after an interruption.

    Args:
        teacher: a causal language model, a folder or a Hub id, loaded in its own dtype.
        tokenizer: defaults to the teacher's own.
        data: text, in any form that `from_teacher` takes as `calibration_data`, cut into blocks as there.
        tokens: of the text, from its start.
        out: the folder; must not exist, or be empty.
        sequence_length: tokens of a block.
        batch_size: blocks of a forward pass.
        device, device_map: where a teacher given by name is loaded; a model is moved to a device.

    Raises:
        CalibrationDataError: the text has fewer tokens than asked for.
        ValueError: a device that is not there; blocks are longer than the teacher's positions; `top_k` is not between 1
            and the vocabulary; the teacher's weights or predictions are not all numbers; the disk has too little room;
            `out` is occupied, or unfinished with other arguments.
        OSError: the disk became full; the files that were finished are kept.
    """
    try:
        import datasets  # noqa: F401, asked for before the work
    except ImportError as error:
        raise ImportError(INSTALL) from error
    out = Path(out)
    check_not_occupied(out)
    check_writable(out)
    check_fits({"teacher": teacher}, sequence_length)
    model, tokenizer = load_teacher(teacher, tokenizer, device, device_map, dtype="auto")
    check_not_wrapped(model, "teacher")
    check_vocabulary(tokenizer, model)
    check_finite_weights(model, "teacher")
    if not 1 <= top_k <= logit_count(model):
        raise ValueError(f"top_k is {top_k}; it must be between 1 and {logit_count(model)}, the teacher's vocabulary.")
    blocks = token_blocks(read_documents(data, tokens), tokenizer, sequence_length, tokens)
    check_enough_blocks(len(blocks), sequence_length, tokens, source_name(data))
    identity = CacheIdentity(
        teacher=model.name_or_path or type(model).__name__,
        weights=weights_fingerprint(tensor for _, tensor in stored_weights(model)),
        tokenizer=tokenizer_fingerprint(tokenizer),
        vocabulary=logit_count(model),
        top_k=top_k,
        sequence_length=sequence_length,
    )
    with ready(model, None), memory_advice("Set a smaller batch_size or a shorter sequence_length."):
        folder = unfinished_folder(out)
        CacheWriter(folder, identity, blocks).write(model, batch_size)
    folder.rename(out)
    return load_teacher_cache(out)


class CacheWriter:
    """The files of a cache in a folder, those that are there already among them.

    Args:
        folder: made if it does not exist.
        blocks: token ids [N, T].

    Raises:
        ValueError: the folder holds unfinished work with other arguments, or its disk has too little room.
    """

    def __init__(self, folder: Path, identity: CacheIdentity, blocks: Tensor) -> None:
        self.folder, self.identity, self.blocks = folder, identity, blocks
        self.features = _features(identity)
        self.size = max(1, SHARD_BYTES // identity.block_bytes)
        check_free_space(folder, identity.block_bytes * (len(blocks) - len(shard_files(folder)) * self.size))
        folder.mkdir(parents=True, exist_ok=True)
        arguments = {**asdict(identity), "blocks": fingerprint([blocks]), "blocks_of_a_file": self.size}
        record_arguments(folder / ARGUMENTS_FILE, arguments)
        self.done = len(shard_files(folder))

    def write(self, model: PreTrainedModel, batch_size: int) -> None:
        """Runs the teacher on the blocks that are missing, writes its predictions, and last what the cache is."""
        shards, parts = self.blocks.split(self.size), BackboneThenHead(model)
        total, before = self.blocks.numel(), sum(part.numel() for part in shards[: self.done])
        with tqdm(total=total, initial=before, desc="Caching", unit="token", unit_scale=True) as bar:
            for number in range(self.done, len(shards)):
                columns: list[dict[str, Tensor]] = []
                for rows in shards[number].split(batch_size):
                    columns.append(_columns(parts, rows, self.identity.top_k))
                    bar.update(rows.numel())
                self._write_file(number, {name: torch.cat([x[name] for x in columns]) for name in columns[0]})
                self.done = number + 1
        with full_disk_advice(self.folder, self._what_is_kept):
            written = {"identity": asdict(self.identity), "blocks": len(self.blocks), "hf_tc": version("hf_tc")}
            replace_file(self.folder / CACHE_FILE, lambda part: part.write_text(json.dumps(written, indent=2)))
        (self.folder / ARGUMENTS_FILE).unlink()

    def _write_file(self, number: int, columns: dict[str, Tensor]) -> None:
        import pyarrow
        from datasets import Dataset

        def write(part: Path) -> None:
            table = Dataset.from_dict({name: x.numpy() for name, x in columns.items()}, self.features).data.table
            with pyarrow.OSFile(str(part), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)

        for part in self.folder.glob("*.part"):  # of a process that died
            part.unlink()
        with full_disk_advice(self.folder, self._what_is_kept):
            replace_file(self.folder / f"shard-{number:05}.arrow", write)

    def _what_is_kept(self) -> str:
        for part in self.folder.glob("*.part"):
            part.unlink()
        blocks = min(self.done * self.size, len(self.blocks))
        return (
            f"{blocks:,} of {len(self.blocks):,} blocks are kept there; make room and give the same command again, "
            "which goes on after them."
        )


def _features(identity: CacheIdentity) -> Features:
    from datasets import Array2D, Features, List, Value

    length, k = identity.sequence_length, identity.top_k
    per_token = {name: List(Value("float32"), length=length) for name in TOP_K_COLUMNS}
    of_tokens = {
        "teacher_ids": Array2D((length, k), identity.id_type),
        "teacher_log_probs": Array2D((length, k), "float32"),
    }
    return Features({"input_ids": List(Value("int32"), length=length), **per_token, **of_tokens})


@torch.no_grad()
def _columns(parts: BackboneThenHead, rows: Tensor, k: int) -> dict[str, Tensor]:
    """Columns of some blocks [B, T], on the CPU."""
    device = execution_device(parts.model.get_input_embeddings())
    hidden = parts.hidden_states({"input_ids": rows.to(device)}).flatten(0, 1)
    targets = next_token_targets(rows).clamp(min=0).flatten()  # the last of a block has none, and is not learned
    size = parts.tokens_at_once
    chunks = zip(hidden.split(size), targets.split(size), strict=True)
    found = [likeliest(parts.logits(states), following, k) for states, following in chunks]
    values = [torch.cat(part).cpu().unflatten(0, rows.shape) for part in zip(*found, strict=True)]
    return {"input_ids": rows.int(), **TopK(*values).columns()}


def likeliest(logits: Tensor, targets: Tensor, k: int) -> TopK:
    """The k likeliest tokens of logits [N, V], with what follows in the text [N].

    Raises:
        ValueError: a log probability is NaN or infinite.
    """
    log_probs = logits.float().log_softmax(-1)
    top = log_probs.topk(k)
    rest = log_probs.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
    of_target = log_probs.gather(-1, targets.to(logits.device).unsqueeze(-1)).squeeze(-1)
    known = (top.values, of_target) if k == logits.shape[-1] else (top.values, of_target, rest)
    if not all(values.isfinite().all() for values in known):
        raise ValueError(
            "The teacher gives log probabilities that are NaN or infinite, which nothing can be learned from. Load it "
            "in bfloat16 or float32."
        )
    return TopK(top.indices.int(), top.values, rest, of_target)
