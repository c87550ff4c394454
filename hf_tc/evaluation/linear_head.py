# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Language-model heads that are a linear layer and no more, which a loss may compute without calling the model."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from hf_tc.evaluation.float32_linear import Float32Linear
from hf_tc.evaluation.sharded_head import is_sharded


class LinearHead(NamedTuple):
    """Weight [V, C], and bias [V] if there is one."""

    weight: Tensor
    bias: Tensor | None = None


def linear_head(module: Any) -> LinearHead | None:
    """Of a linear layer whose own weights stay where they are until the backward; None for all else.

    So not of one that is wrapped, whose weight is made anew at each forward, or that FSDP, which marks all modules that
    it manages, or ZeRO-3 take the weights of.
    """
    is_bare = type(module) is nn.Linear and type(module.weight) is nn.Parameter
    if not is_bare or getattr(module, "_is_fsdp_managed_module", False) or is_sharded(module):
        return None
    return LinearHead(module.weight, module.bias)


def is_linear(module: Any, hidden: Tensor, logits: Tensor) -> bool:
    """Whether such a layer alone has these logits [N, V] of hidden states [N, C]: nothing scales or follows it."""
    head = linear_head(module)
    if head is None or len({head.weight.device, hidden.device, logits.device}) > 1 or not logits.any():
        return False
    with Float32Linear():
        return torch.equal(linear(hidden, *head), logits)
