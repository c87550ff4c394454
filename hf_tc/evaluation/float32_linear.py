# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Linear layers in 16 bits whose products are kept as they were summed, in float32.

A GPU multiplies 16-bit numbers and sums in float32; `F.linear` then rounds the sum to 16 bits. Of logits near 20 that
leaves steps of 0.1 in bfloat16, and where a student is close to its teacher the difference of the two is that small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from hf_tc.modeling.kernel_checks import compute_dtype

UPCAST_AT_ONCE = 2**25  # numbers of a weight that are held in float32 where no kernel multiplies 16 bits into it

TORCH_LINEAR = torch._C._nn.linear  # what `F.linear` is a name of

# torch 2.8 and newer, for NVIDIA GPUs.
_CUDA_HAS_FLOAT32_OUTPUT = torch.version.cuda is not None and "dtype" in torch.ops.aten.mm.overloads()


class Float32Linear(TorchFunctionMode):
    """Inside, `F.linear` in float16 or bfloat16, by its weight or by autocast, gives float32; gradients too are taken
    from products in float32.

    So a whole forward pass of a head does, whatever wraps its linear layer (adapters, offloading) or follows it.
    Weights that are sharded or quantised, and GPUs whose torch has no such product, compute as they did. DeepSpeed's
    ZeRO-3 puts a function in the place of `F.linear` that no mode sees; inside, torch's own is back.
    """

    def __enter__(self) -> Float32Linear:
        self._found, F.linear = F.linear, TORCH_LINEAR
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        F.linear = self._found
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    device = weight.device.type
    is_plain = type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point()
    if not is_plain or not (device == "cpu" or (device == "cuda" and _CUDA_HAS_FLOAT32_OUTPUT)):
        return F.linear(input, weight, bias)
    dtype = compute_dtype(weight)
    if dtype not in (torch.float16, torch.bfloat16):
        return F.linear(input, weight, bias)
    rows = _Linear.apply(input.flatten(0, -2), weight, dtype)
    output = rows.unflatten(0, input.shape[:-1])
    return output if bias is None else output + bias


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        rounded = rows.to(dtype), weight.to(dtype)
        ctx.save_for_backward(*rounded)
        return _product(rounded[0], rounded[1].T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Any, ...]:
        rows, weight = ctx.saved_tensors
        of_rows, of_weight, _ = ctx.needs_input_grad
        if output_gradient.is_cuda:
            output_gradient = output_gradient.to(rows.dtype)  # once for both products
        return (
            _product(output_gradient, weight) if of_rows else None,
            _product(output_gradient.T, rows) if of_weight else None,
            None,
        )


def _product(left: Tensor, right: Tensor) -> Tensor:
    """[N, K] times [K, M], the latter in 16 bits, in float32; on a GPU what is left is rounded to the same type."""
    with torch.autocast(left.device.type, enabled=False):
        if left.is_cuda:
            return torch.mm(left.to(right.dtype), right, out_dtype=torch.float32)
        left, columns = left.float(), max(1, UPCAST_AT_ONCE // max(1, len(right)))
        return torch.cat([left @ part.float() for part in right.split(columns, dim=1)], dim=1)
