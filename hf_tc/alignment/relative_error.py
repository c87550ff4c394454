# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How far a layer is from the teacher's, relative to the teacher's own size; first tokens have a share of their own.

A block's first token is one in a thousand, so a fit by tokens alone gives it up. But all tokens after it look there:
the massive activation that attention sinks hang on (arXiv 2402.17762) begins with what the first layers give it.
"""

import torch
from torch import Tensor

FIRST_TOKENS = 0.1  # weight of their error beside that of all tokens


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """Error of `[N, T, C]`, a scalar: 0 for the teacher, 1 for a silent layer.

    ||output - target||^2 / ||target||^2 over all tokens, and the same over first tokens, weighted.
    """
    return weighted(sizes(output - target) / sizes(target))


def sizes(rows: Tensor) -> Tensor:
    """`[2]`: sum of squares of `[N, T, C]` over all tokens, and over first ones."""
    by_position = rows.square().sum((0, 2))
    return torch.stack([by_position.sum(), by_position[0]])


def weighted(errors: Tensor) -> Tensor:
    """The mean of the errors of all tokens and of first ones, `[2]`."""
    return (errors[0] + FIRST_TOKENS * errors[1]) / (1 + FIRST_TOKENS)
