# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Whether a kernel is right on this machine: found out by running it beside the plain form, once, and said if not.

A GPU too old, a package of another version or a broken compiler cache then cost speed, never numbers.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

TOLERANCE = 0.02  # relative; bfloat16 alone makes 0.005
Tensors = tuple[torch.Tensor, ...]


def kernel_is_right(
    name: str,
    kernel: Callable[..., Tensors],
    plain: Callable[..., Tensors],
    problem: dict[str, torch.Tensor],
    training: bool,
) -> bool:
    """Runs a kernel and its plain form on one problem; compares outputs, and with `training` the gradients.

    Whatever mode a first forward is in, they compute outside of it: autocast would round the plain form's products, and
    activation checkpointing takes what is saved here for a layer's, and misses it in the second forward.

    Args:
        name: of the kernel, for the log.
        kernel, plain: take the problem by keyword.
        problem: floating point tensors, in the dtypes and dimensions that the kernel will be used for.
    """
    device = next(iter(problem.values())).device
    slow = threading.Timer(3.0, logger.warning, [f"Compiling {name} for {device}; Triton keeps the result for later "
                                                 "processes."])  # fmt: skip
    slow.daemon = True
    slow.start()
    try:
        error = _in_a_thread_of_its_own(device, lambda: relative_error(kernel, plain, problem, training))
    except Exception as failure:  # any failure of a kernel means: do not use it
        reason = f"raised {type(failure).__name__}: {(str(failure).splitlines() or [''])[0]}"
    else:
        if error < TOLERANCE:
            return True
        reason = f"differs from the plain form by {error:.1%}"
    finally:
        slow.cancel()
    form = "forward and backward" if training else "forward"
    dtypes = "/".join(sorted({str(x.dtype).removeprefix("torch.") for x in problem.values()}))
    logger.warning(f"The slower plain form stands in for {name} on {device} ({dtypes}, {form}): it {reason}.")
    return False


def compute_dtype(tensor: torch.Tensor) -> torch.dtype:
    """What products with it are computed in: autocast's precision where that is on, or its own."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def relative_error(
    kernel: Callable[..., Tensors], plain: Callable[..., Tensors], problem: dict[str, torch.Tensor], training: bool
) -> float:
    """Largest relative error over outputs and, with `training`, gradients of the problem's tensors."""
    results: list[Tensors] = []
    with torch.enable_grad() if training else torch.no_grad():
        for form in (kernel, plain):
            leaves = {name: x.clone().requires_grad_(training) for name, x in problem.items()}
            outputs = tuple(output.float() for output in form(**leaves))
            loss: Any = sum(output.square().sum() + output.sum() for output in outputs)
            gradients = torch.autograd.grad(loss, list(leaves.values())) if training else ()
            results.append((*(output.detach() for output in outputs), *gradients))
    pairs = zip(*results, strict=True)
    return max(((a - b).float().norm() / b.float().norm().clamp_min(1e-12)).item() for a, b in pairs)


def _in_a_thread_of_its_own(device: torch.device, function: Callable[[], float]) -> float:
    """Modes of torch (autocast, saved tensors' hooks, dispatch modes) are a thread's own, and a new one has none."""
    on_gpu = device.type == "cuda"
    if on_gpu:  # a new thread is on the default stream
        torch.cuda.synchronize(device)

    def there() -> float:
        with torch.cuda.device(device) if on_gpu else nullcontext():
            return function()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(there).result()
