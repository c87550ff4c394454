# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a model finds again in its own context, measured on any text: perplexity hardly sees it.

Repeated passages: a passage of text, and at once the same passage again. All tokens of a passage but the first are
compared, in both copies, as mean negative log-likelihoods (see `hf_tc.data.repeated_passages`).

Look-up: a list of key-value pairs, then other text of a given length, then each key again, in another order, with its
value to be predicted (associative recall, as in arXiv 2312.04927). Keys and values are tokens of the text, each of them
once in a row. The answer counts as right if its value is the likeliest among those of the list, so that chance is one
over their number whatever the vocabulary, and a model need not know that a list is being asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_tc.data.repeated_passages import repeat_passages
from hf_tc.data.token_blocks import after_start
from hf_tc.evaluation.figures import Recall
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.evaluation.perplexity import token_nll
from hf_tc.teachers.offloading import execution_device
from hf_tc.teachers.positions import check_fits

PASSAGES = 64
LISTS, PAIRS = 32, 8
DISTANCES = (0, 128, 512)  # tokens between a list and its questions
SEED = 0  # one draw for all models: their figures are compared


@dataclass(frozen=True)
class Lookups:
    """Key-value lists with their questions.

    Attributes:
        input_ids: [N, T].
        positions: [N, P], where the answer to each question is to be predicted.
        values: [N, P], the values of the list in its order.
        answers: [N, P], which of the values each question asks for.
    """

    input_ids: Tensor
    positions: Tensor
    values: Tensor
    answers: Tensor


@dataclass(frozen=True)
class RecallRows:
    """All rows of the measure: repeated passages [N, 2 L] behind their prefix, and look-ups by distance."""

    repeated: Tensor
    prefix_tokens: int
    lookups: dict[int, Lookups]

    @property
    def passage_tokens(self) -> int:
        """Tokens of a passage, L."""
        return (self.repeated.shape[1] - self.prefix_tokens) // 2

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(rows.shape[1] for rows in (self.repeated, *(x.input_ids for x in self.lookups.values())))


def recall_rows(passages: Tensor, prefix: Tensor, distances: Sequence[int] = DISTANCES) -> RecallRows:
    """The rows of the measure, from passages [N, L] of a text in its order.

    Args:
        prefix: [P], what the tokenizer puts before a text: nothing, or bos.
        distances: tokens between a list and its questions, each 0 or more.

    Raises:
        ValueError: fewer than two passages, or too little text for a distance.
    """
    if len(passages) < 2:
        raise ValueError(
            f"The text has {len(passages)} whole passage of {passages.shape[1]} tokens; recall needs at least 2. Give "
            "more text, or none to use the packaged sample."
        )
    text = passages.flatten()
    repeated = repeat_passages(passages[:PASSAGES, None]).input_ids
    return RecallRows(
        repeated=after_start(repeated, prefix),
        prefix_tokens=len(prefix),
        lookups={distance: lookup_rows(text, prefix, distance) for distance in distances},
    )


def lookup_rows(text: Tensor, prefix: Tensor, distance: int, *, lists: int = LISTS, pairs: int = PAIRS) -> Lookups:
    """Key-value lists, each followed by `distance` tokens from anywhere in `text` [M] and by its questions.

    Raises:
        ValueError: the text is shorter than the distance, or has too few different tokens beside those in between.
    """
    if not 0 <= distance <= len(text):
        raise ValueError(
            f"Recall at distance {distance} needs as many tokens of text, 0 or more, and there are {len(text)}. Give "
            "more text or other distances."
        )
    generator = torch.Generator().manual_seed(SEED)  # of its own, so that no distance depends on the others
    vocabulary, rows, values, answers = text.unique(), [], [], []
    for _ in range(lists):
        start = int(torch.randint(len(text) - distance + 1, (), generator=generator))
        between = text[start : start + distance]
        unused = vocabulary[~torch.isin(vocabulary, between)]
        if len(unused) < 2 * pairs:
            raise ValueError(
                f"Recall at distance {distance} needs {2 * pairs} different tokens beside those in between, and the "
                f"text has {len(unused)}. Give more text or shorter distances."
            )
        chosen = unused[torch.randperm(len(unused), generator=generator)[: 2 * pairs]].view(pairs, 2)
        asked = torch.randperm(pairs, generator=generator)
        rows.append(torch.cat([prefix, chosen.flatten(), between, chosen[asked].flatten()[:-1]]))
        values.append(chosen[:, 1])
        answers.append(asked)
    first_question = len(prefix) + 2 * pairs + distance
    positions = (first_question + 2 * torch.arange(pairs)).expand(lists, -1)
    return Lookups(torch.stack(rows), positions, torch.stack(values), torch.stack(answers))


def check_positions(model: PreTrainedModel, rows: RecallRows) -> None:
    """Raises ValueError if a row is longer than the positions that the model has."""
    given = f"recall makes rows of {rows.longest} tokens"
    check_fits({type(model).__name__: model}, rows.longest, given, "Give shorter distances, for rows of")


@torch.no_grad()
def measure_recall(
    model: PreTrainedModel, rows: RecallRows, *, tokens_per_pass: int = 4096, show_progress: bool = False
) -> Recall:
    """Recall of a causal LM in eval mode.

    Args:
        tokens_per_pass: tokens of a forward pass; at least one row.

    Raises:
        ValueError: see `check_positions`.
    """
    check_positions(model, rows)
    parts = BackboneThenHead(model)
    batches = len(list(_batches(rows.repeated, tokens_per_pass)))
    batches += sum(len(list(_batches(lookups.input_ids, tokens_per_pass))) for lookups in rows.lookups.values())
    with tqdm(total=batches, desc="Recall", unit="batch", disable=not show_progress) as bar:
        first, second = _copies(parts, rows, tokens_per_pass, bar)
        accuracy = {
            distance: _lookup_accuracy(parts, lookups, tokens_per_pass, bar)
            for distance, lookups in rows.lookups.items()
        }
    return Recall(len(rows.repeated), rows.passage_tokens, first, second, LISTS * PAIRS, 1 / PAIRS, accuracy)


def _copies(parts: BackboneThenHead, rows: RecallRows, tokens_per_pass: int, bar: tqdm) -> tuple[float, float]:
    """Mean negative log-likelihood of the same tokens, all but the first of a passage, in both copies."""
    nll = []
    for batch in _batches(rows.repeated, tokens_per_pass):
        nll.append(token_nll(parts, rows.repeated[batch]))
        bar.update()
    of_copies, length = torch.cat(nll)[:, rows.prefix_tokens :], rows.passage_tokens
    # Each place holds the likelihood of the token after it, so that a copy's last one is that of the next copy's first.
    return of_copies[:, : length - 1].mean().item(), of_copies[:, length:].mean().item()


def _lookup_accuracy(parts: BackboneThenHead, lookups: Lookups, tokens_per_pass: int, bar: tqdm) -> float:
    """Share of the questions for which the right value is the likeliest of those in the list."""
    right = 0
    device = execution_device(parts.model.get_input_embeddings())
    for batch in _batches(lookups.input_ids, tokens_per_pass):
        hidden = parts.hidden_states({"input_ids": lookups.input_ids[batch].to(device)})
        positions = lookups.positions[batch].to(hidden.device)
        asked = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
        logits = torch.cat([parts.logits(chunk) for chunk in asked.flatten(0, 1).split(parts.tokens_at_once)])
        values = lookups.values[batch].to(logits.device)
        offered = values[:, None].expand(-1, values.shape[1], -1).flatten(0, 1)  # the whole list, for each question
        chosen = logits.gather(1, offered).argmax(-1).cpu()
        right += int((chosen == lookups.answers[batch].flatten()).sum())
        bar.update()
    return right / lookups.answers.numel()


def _batches(rows: Tensor, tokens_per_pass: int) -> Iterator[slice]:
    size = max(1, tokens_per_pass // rows.shape[1])
    return (slice(start, start + size) for start in range(0, len(rows), size))
