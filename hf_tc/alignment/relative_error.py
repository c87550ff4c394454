# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How far a layer is from the teacher's, relative to the teacher's own size; first tokens have a share of their own.

A block's first token is one in a thousand, so a fit by tokens alone gives it up. But all tokens after it look there:
the massive activation that attention sinks hang on (arXiv 2402.17762) begins with what the first layers give it.
"""

import torch
from torch import Tensor

FIRST_TOKENS = 0.1  # weight of their error beside that of all tokens together
LEAST_SIZE = 1e-6  # of first tokens, to that of a mean token: what is smaller adds nothing, and is not divided by


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """Error of `[N, T, C]`, a scalar: 0 for the teacher, 1 for a silent layer.

    ||output - target||^2 / ||target||^2 over all tokens, and the same over first tokens, as a weighted mean. Where a
    teacher adds nothing, 1 for whatever is added.
    """
    return relative(sizes(output - target), sizes(target), target.shape[1])


def sizes(rows: Tensor) -> Tensor:
    """`[2]`: sum of squares of `[N, T, C]` over all tokens, and over first ones."""
    by_position = rows.square().sum((0, 2))
    return torch.stack([by_position.sum(), by_position[0]])


def relative(difference: Tensor, size: Tensor, length: int) -> Tensor:
    """The error of blocks of so many tokens, from the `sizes` of what is wrong and of the teacher's."""
    of_all, of_first = size
    size = torch.stack([of_all, torch.maximum(of_first, LEAST_SIZE * of_all / length)])
    adds = size > 0
    all_tokens, first_tokens = torch.where(adds, difference / torch.where(adds, size, 1), (difference > 0).to(size))
    return (all_tokens + FIRST_TOKENS * first_tokens) / (1 + FIRST_TOKENS)
