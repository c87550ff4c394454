# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Decay from a memory timescale.

    alpha = 2^(-1/d)   so that a memory halves in d tokens:   exp(A_log) * softplus(dt_bias) = ln 2 / d

with A_log = 0. The paper sets d to the head's mean attention distance (arXiv 2606.16429, section 3.2); here that is one
of the candidates, and `half_life_search` picks among them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Multiples of the mean attention distance that are tried as half-lives. An attention sink, which the distance counts,
# makes it up to a hundred times too long.
HALF_LIFE_FACTORS = (1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
SHORTEST_HALF_LIFE = 0.5  # tokens; a head that looks at itself alone has distance 0


def half_life_candidates(mean_attention_distance: Tensor, factors: Sequence[float] = HALF_LIFE_FACTORS) -> Tensor:
    """Half-lives to try, in tokens: `[H]` distances to `[candidates, H]`. Factor 1 is the paper's rule."""
    multiples = torch.tensor(factors, dtype=mean_attention_distance.dtype, device=mean_attention_distance.device)
    return (multiples[:, None] * mean_attention_distance).clamp_min(SHORTEST_HALF_LIFE)


def log_decay_of(half_life: Tensor) -> Tensor:
    """log alpha, negative, from half-lives in tokens, any shape."""
    return -math.log(2) / half_life


def dt_bias_of(half_life: Tensor) -> Tensor:
    """dt_bias that gives these half-lives (tokens, any shape) with A_log = 0 and a_proj = 0: softplus^-1(ln 2 / d)."""
    step = math.log(2) / half_life.double()
    return step + torch.log(-torch.expm1(-step))
