# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""More text than there is: calibration text cut anew and with some tokens exchanged, for the teacher to answer.

A fit by gradient descent learns a short text by heart. The teacher answers any text, also a damaged one, so its answers
to such text are as true as those to the original and keep the fit general ("function matching", Beyer et al. 2022,
arXiv 2106.05237). Solves do not need it: their ridge keeps them near the teacher's weights.
"""

import torch
from torch import Tensor

CORRUPTED_SHARE = 0.1  # of the tokens of a window
COPIES = 16  # windows for each block, as long as there are
MOST_TOKENS = 262_144  # of windows; longer texts are not learnt by heart


def number_of_corrupted_sequences(blocks: int, length: int) -> int:
    """How many windows go with so many blocks of that length."""
    return min(COPIES * blocks, MOST_TOKENS // length)


def corrupted_sequences(blocks: Tensor, count: int, seed: int, share: float = CORRUPTED_SHARE) -> Tensor:
    """Token windows `[count, T]` at random places of the joined blocks `[N, T]`, some tokens replaced by others of it.

    Args:
        seed: decides places and replacements.
        share: of the tokens to replace, in [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    text, length = blocks.cpu().flatten(), blocks.shape[1]
    starts = torch.randint(len(text) - length + 1, (count,), generator=generator)
    windows = text[starts[:, None] + torch.arange(length)]
    others = text[torch.randint(len(text), windows.shape, generator=generator)]
    return torch.where(torch.rand(windows.shape, generator=generator) < share, others, windows)
