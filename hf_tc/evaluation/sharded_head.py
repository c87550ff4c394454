# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A language-model head that is sharded by itself, and a loss that runs it in chunks.

FSDP2, as accelerate uses it since 1.15, and DeepSpeed's ZeRO-3 bring a module's weights before its forward and take
them away after its backward. A chunk's gradients are taken at once, which they would take for the head's one backward.
So the chunks run without their hooks, on weights that are there until the real backward is over.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule


def is_sharded(module: Any) -> bool:
    """Whether FSDP2 or ZeRO-3 keeps the module's weights in parts."""
    return isinstance(module, FSDPModule) or any(hasattr(weight, "ds_status") for weight in module.parameters())


def gather_with_model(head: Any, model: nn.Module) -> None:
    """Has ZeRO-3 bring such a head's weights for the whole of every forward and backward of the model; to be called
    before them. It expects the same weights in the same order every time. Others are left alone.
    """
    if is_sharded(head) and not isinstance(head, FSDPModule):
        from deepspeed import zero

        for weight in head.parameters():
            zero.register_external_parameter(model, weight)


def gather_head(head: Any) -> None:
    """Brings the whole weights of a head of FSDP2, which takes them away after the backward; others are left alone."""
    if isinstance(head, FSDPModule):
        head.unshard()


@contextlib.contextmanager
def without_sharding_hooks(head: Any) -> Iterator[None]:
    """Inside, such a head computes with the weights that are there."""
    if not is_sharded(head):
        yield
        return
    module: Any = head
    hooks = module._forward_pre_hooks, module._forward_hooks
    module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        module._forward_pre_hooks, module._forward_hooks = hooks
