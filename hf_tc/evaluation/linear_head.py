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
    """Of a linear layer with weights of its own, neither wrapped nor sharded nor views of others; None for all else."""
    if type(module) is not nn.Linear or is_sharded(module) or "weight" not in module._parameters:
        return None
    return LinearHead(module.weight, module.bias)


def gives(module: Any, hidden: Tensor, logits: Tensor) -> bool:
    """Whether such a layer alone has these logits [N, V] of hidden states [N, C]: nothing scales or follows it."""
    head = linear_head(module)
    if head is None or len({head.weight.device, hidden.device, logits.device}) > 1:
        return False
    with Float32Linear():
        return torch.equal(linear(hidden, *head), logits)
