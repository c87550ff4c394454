# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""More text than there is: calibration text cut anew and with some tokens exchanged, for the teacher to answer.

A fit by gradient descent overfits a short text. The teacher answers any text, also a damaged one, so its answers
to such text are as true as those to the original and keep the fit general ("function matching", Beyer et al. 2022,
arXiv 2106.05237). Solves do not need it: their ridge keeps them near the teacher's weights.
"""

import torch
from torch import Tensor

CORRUPTION_RATE = 0.1  # share of the tokens of a sequence
COPIES = 16  # sequences for each block, as long as there are
MOST_TOKENS = 262_144  # of all sequences; longer texts are not overfitted
DRAWS = 2  # of each sequence, where a fit is too short to see all of them so often: as good as all of them drawn once


def number_of_corrupted_sequences(blocks: int, length: int, drawn: int) -> int:
    """How many sequences go with so many blocks of that length, for a fit that draws so many sequences in all."""
    return min(COPIES * blocks, MOST_TOKENS // length, max(0, drawn // DRAWS - blocks))


def corrupted_sequences(blocks: Tensor, count: int, seed: int, rate: float = CORRUPTION_RATE) -> Tensor:
    """Token sequences `[count, T]` at random places of the joined blocks `[N, T]`, some tokens replaced.

    Args:
        seed: decides places and replacements.
        rate: share of the tokens to replace, in [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    text, length = blocks.cpu().flatten(), blocks.shape[1]
    starts = torch.randint(len(text) - length + 1, (count,), generator=generator)
    sequences = text[starts[:, None] + torch.arange(length)]
    others = text[torch.randint(len(text), sequences.shape, generator=generator)]
    return torch.where(torch.rand(sequences.shape, generator=generator) < rate, others, sequences)
