# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What `distilled_tokens` measures: perplexity and LAMBADA over the teacher's, in little code and without lm-eval."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from hf_tc.data.token_blocks import bos_prefix, read_documents, token_blocks
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.evaluation.perplexity import perplexity, ready
from hf_tc.evaluation.task_files import read_task_file

PERPLEXITY, LAMBADA, NATS = "perplexity x", "LAMBADA share", "LAMBADA +nats"
TEXT_BLOCKS, TEXT_LENGTH = 32, 1024
LAMBADA_BATCH, TEXT_BATCH = 64, 8


class Measures:
    """Perplexity and LAMBADA of models over the teacher's, which `teacher` has.

    LAMBADA also as nats by which the last word is less likely, which every text moves and not only those that go from
    right to wrong.
    """

    def __init__(self, teacher: PreTrainedModel, tokenizer: Any, text: str, lambada: Path, rows: int) -> None:
        documents = read_documents(text, TEXT_BLOCKS * TEXT_LENGTH)
        self.blocks = token_blocks(documents, tokenizer, TEXT_LENGTH, TEXT_BLOCKS * TEXT_LENGTH)
        self.texts = last_words(lambada, tokenizer, rows)
        self.teacher = self._of(teacher)
        if not self.teacher[LAMBADA]:
            raise ValueError(
                f"The teacher has no last word of {len(self.texts)} texts right. Give more --lambada-rows."
            )

    def over_the_teacher(self, model: PreTrainedModel) -> dict[str, float]:
        found = self._of(model)
        more = found.pop(NATS) - self.teacher[NATS]
        return {**{name: value / self.teacher[name] for name, value in found.items()}, NATS: more}

    def _of(self, model: PreTrainedModel) -> dict[str, float]:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
            found = perplexity(model, self.blocks, batch_size=TEXT_BATCH)
            share, nats = last_words_of(model, self.texts)
            return {PERPLEXITY: found, LAMBADA: share, NATS: nats}


def last_words(path: Path, tokenizer: Any, rows: int) -> list[tuple[Tensor, int]]:
    """(tokens of a text, how many of them come before its last word), the shortest first; cut as lm-eval cuts them."""
    prefix, found = bos_prefix(tokenizer), []
    for row in read_task_file(path)[:rows]:
        whole, context = (
            prefix + tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (row["text"], row["text"].rpartition(" ")[0])
        )
        found.append((torch.tensor(whole), len(context)))
    return sorted(found, key=lambda text: len(text[0]))


@torch.no_grad()
def last_words_of(model: PreTrainedModel, texts: list[tuple[Tensor, int]]) -> tuple[float, float]:
    """The share of texts whose last word is, token by token, the likeliest, and the mean of its -log p in nats.

    Padding is on the right, where nothing looks.
    """
    right, nats, parts = 0, 0.0, BackboneThenHead(model)
    with ready(model, None):
        for first in range(0, len(texts), LAMBADA_BATCH):
            batch = texts[first : first + LAMBADA_BATCH]
            rows = pad_sequence([text for text, _ in batch], batch_first=True).to(model.device)
            place = torch.arange(1, rows.shape[1])
            asked = torch.stack([(place >= before) & (place < len(text)) for text, before in batch]).to(model.device)
            hidden = parts.hidden_states({"input_ids": rows})[:, :-1]
            wrong = torch.zeros_like(asked)
            logits, words = parts.logits(hidden[asked]).float(), rows[:, 1:][asked]
            wrong[asked] = logits.argmax(-1) != words
            nats += float(cross_entropy(logits, words, reduction="sum"))
            right += len(batch) - int(wrong.any(-1).sum())
    return right / len(texts), nats / len(texts)
