# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How much each position of a block counts in a layer's error: half evenly by token, half evenly by octave of them.

By token alone the first ones hardly count, and a layer gives them up. But they are all there is of a short prompt, a
state that has yet to fill is furthest from softmax's mean there, and the massive activation of the first token, which
attention sinks hang on (arXiv 2402.17762), begins with what the first layers' attention gives it.
"""

import torch
from torch import Tensor

OCTAVE_SHARE = 0.5  # of the weight, spread over octaves 0, 1, 2-3, 4-7, ...


def position_weights(length: int, device: torch.device | None = None) -> Tensor:
    """float32 `[length]`, 1 on average."""
    octave = torch.arange(length, dtype=torch.float32, device=device).frexp().exponent.long()
    weights = torch.ones(length, device=device)
    octaves = (length - 1).bit_length() + 1
    positions = torch.zeros(octaves, device=device).index_add_(0, octave, weights)
    return weights.lerp(length / (octaves * positions[octave]), OCTAVE_SHARE)
