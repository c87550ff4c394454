# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Text in which half of the tokens can be known only by looking back: passages, each followed by the same passage.

A model that finds the first copy knows all of the second but its first token, which nothing announces (the induction of
Olsson et al. 2022, arXiv 2209.11895). Plain text asks for this too seldom for a mean over its tokens to show it.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_tc.data.token_blocks import NO_START, after_start

PASSAGE_TOKENS = 64
SHORTEST_PASSAGE = 16  # to learn from; those of PASSAGE_TOKENS are to measure with


class RepeatedPassages(NamedTuple):
    """Rows of passages that come twice.

    Attributes:
        input_ids: [N, T].
        second_copies: [N, T], whether a token is of a second copy, and not the first of it.
    """

    input_ids: Tensor
    second_copies: Tensor


def passages_of(text: Tensor) -> Tensor:
    """Passages `[P, PASSAGE_TOKENS]` of token ids `[M]`, in their order."""
    return text[: len(text) // PASSAGE_TOKENS * PASSAGE_TOKENS].view(-1, PASSAGE_TOKENS)


def places_of_passages(length: int, passage_tokens: int) -> Tensor:
    """Places `[length]` in a text by which passages of so many tokens come twice, the last pair of them cut."""
    place = torch.arange(length)
    return place // (2 * passage_tokens) * passage_tokens + place % passage_tokens


def repeat_passages(passages: Tensor) -> RepeatedPassages:
    """Rows `[N, 2 P L]` of passages `[N, P, L]`, each followed by the same passage, and then by the next."""
    rows, count, length = passages.shape
    of_passage = torch.arange(2 * length, device=passages.device) > length
    input_ids = passages.flatten(1)[:, places_of_passages(2 * count * length, length)]
    return RepeatedPassages(input_ids, of_passage.repeat(rows, count))


def repeated_passages(blocks: Tensor, count: int, seed: int, passage_tokens: int = PASSAGE_TOKENS) -> RepeatedPassages:
    """Rows `[count, T]` of passages from random places of the joined blocks `[N, T]`; the last pair is cut at T.

    Args:
        seed: decides the places.
        passage_tokens: L of every passage, and so how far back the first copy lies: from 2 to T / 2.

    Raises:
        ValueError: passages of that length do not come twice in a block.
    """
    text, length = blocks.cpu().flatten(), blocks.shape[1]
    if not 2 <= passage_tokens <= length // 2:
        raise ValueError(
            f"passage_tokens is {passage_tokens}; a passage that comes twice in a block of {length} tokens has from 2 "
            f"to {length // 2}. Give another length, or longer blocks (sequence_length)."
        )
    pairs = -(-length // (2 * passage_tokens))
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(text) - passage_tokens + 1, (count, pairs), generator=generator)
    rows = repeat_passages(text[starts[..., None] + torch.arange(passage_tokens)])
    return RepeatedPassages(rows.input_ids[:, :length], rows.second_copies[:, :length])


def drawn_passage_tokens(length: int, generator: torch.Generator) -> int:
    """From SHORTEST_PASSAGE to half of the length, as likely between 16 and 32 as between 256 and 512."""
    longest = length // 2
    shortest = min(SHORTEST_PASSAGE, longest)
    return round(shortest * math.exp(torch.rand((), generator=generator).item() * math.log(longest / shortest)))


def near_and_far(blocks: Tensor, start: Tensor = NO_START) -> RepeatedPassages:
    """As many rows as blocks: short passages that repeat at once in one half of them, half a block in the other.

    Args:
        start: `[P]`, what every block begins with, and so every row: bos, or nothing; see `shared_start`.

    Raises:
        ValueError: blocks of fewer than four tokens without it.
    """
    blocks = blocks[:, len(start) :]
    far = blocks.shape[1] // 2
    lengths = ((min(PASSAGE_TOKENS, far), len(blocks) - len(blocks) // 2), (far, len(blocks) // 2))
    parts = [repeated_passages(blocks, count, seed=0, passage_tokens=tokens) for tokens, count in lengths]
    rows = RepeatedPassages(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    return RepeatedPassages(after_start(rows.input_ids, start), F.pad(rows.second_copies, (len(start), 0)))
