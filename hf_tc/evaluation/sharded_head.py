# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A language-model head that FSDP2 shards by itself, as accelerate does since 1.15, and a loss that runs it in chunks.

FSDP2 brings a module's weights before its forward and takes them away after its backward. A chunk's gradients are taken
at once, which it would take for the head's one backward. So the chunks run without its hooks, on weights that are there
until the real backward is over.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch.distributed.fsdp import FSDPModule


def gather_head(head: Any) -> None:
    """Brings the whole weights of such a head; FSDP2 takes them away after the backward. Others are left alone."""
    if isinstance(head, FSDPModule):
        head.unshard()


@contextlib.contextmanager
def without_sharding_hooks(head: Any) -> Iterator[None]:
    """Inside, such a head computes with the weights that are there."""
    if not isinstance(head, FSDPModule):
        yield
        return
    module: Any = head
    hooks = module._forward_pre_hooks, module._forward_hooks
    module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        module._forward_pre_hooks, module._forward_hooks = hooks
