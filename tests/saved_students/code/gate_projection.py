# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The projection behind the decay and behind the write gate; being never quantised, it knows the layer's dtype."""

import torch
from torch import nn


class GateProjection(nn.Linear):
    """A row per head, which says how much is forgotten or written.

    A class of its own, since quantisers replace what is exactly `nn.Linear`: these few rows save nothing, their errors
    add up over all tokens, and 4-bit kernels for CPUs want multiples of 32 rows.
    """


def check_one_dtype(hidden_states: torch.Tensor, weight: torch.Tensor, layer: int) -> None:
    """Raises ValueError where weight and input of a layer differ in dtype and no autocast brings them together."""
    if hidden_states.dtype != weight.dtype and not torch.is_autocast_enabled(hidden_states.device.type):
        raise ValueError(
            f"Layer {layer} is in {weight.dtype} and its input in {hidden_states.dtype}. Bring the whole model and its "
            "inputs to one dtype (model.to(dtype)), or run it under torch.autocast."
        )
