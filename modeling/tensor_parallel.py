# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Recurrent layers under tensor parallelism: every rank has the gates whole, and computes some of the heads.

The family's plan cannot name single layers, so it shards the projections of recurrent layers as it shards attention's:
q, k and v come out of them with this rank's heads only, and o_proj expects no others.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh


class HeadShard:
    """One rank's share of the heads."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def scatter(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """This rank's share of a tensor that all ranks computed whole, along its heads."""
        return _ScatterToHeads.apply(x, dim, self.group)

    def copy(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor that each rank applies to its own heads: its gradient is the sum over the ranks."""
        return _CopyToHeads.apply(x, self.group)


def find_head_shard(mesh: DeviceMesh | None, heads: int, all_heads: int) -> HeadShard | None:
    """None where the projections gave all heads; else the ranks among which Transformers divided them.

    Raises:
        RuntimeError: the heads are divided, and the layer was not told among which ranks.
    """
    if heads == all_heads:
        return None
    if mesh is None:
        raise RuntimeError(
            f"A recurrent layer computes {heads} of its {all_heads} heads on this rank and knows no other ranks. Load "
            "the student by from_pretrained(..., tp_plan='auto'), which tells it."
        )
    return HeadShard(mesh.get_group() if mesh.ndim == 1 else mesh.get_group("tp"))


def check_heads_divide(heads: int, kv_heads: int, ranks: int) -> None:
    """Raises `ValueError` where a rank would get a part of a head; the library divides rows, whosever they are."""
    if heads % ranks or kv_heads % ranks:
        raise ValueError(
            f"{heads} query heads and {kv_heads} key/value heads cannot be divided among {ranks} tensor-parallel "
            f"ranks. Use {math.gcd(heads, kv_heads)} ranks or a divisor of it, or shard by FSDP."
        )


class _ScatterToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.dim, ctx.group = dim, group
        return x.chunk(dist.get_world_size(group), dim)[dist.get_rank(group)].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = gradient.contiguous()
        parts = [torch.empty_like(gradient) for _ in range(dist.get_world_size(ctx.group))]
        dist.all_gather(parts, gradient, group=ctx.group)
        return torch.cat(parts, dim=ctx.dim), None, None


class _CopyToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None
