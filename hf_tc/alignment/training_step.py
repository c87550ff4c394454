# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One optimiser step of a fit: loss, gradients, clipping, update; on a GPU replayed as one CUDA graph.

At the sizes of a fit, launching kernels takes longer than running them.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hf_tc.modeling.tf32 import tf32_products
from hf_tc.teachers.gpu_waits import waits_for_the_gpu

WARM_UP_STEPS = 3
Loss = Callable[..., Tensor]


@contextmanager
def training_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    minibatch: tuple[Tensor, ...],
    *,
    clip: float,
    at_once: int | None = None,
) -> Iterator[Callable[..., None]]:
    """Yields a function that takes the tensors of a minibatch and does one step on them.

    Args:
        module: whose weights change, in place.
        optimizer: on a GPU capturable, its learning rates as tensors, so that a schedule reaches the graph.
        loss: the mean over the rows of some tensors, in terms of the module's weights.
        minibatch: any, for its shapes.
        clip: largest norm of the gradient.
        at_once: rows of a backward pass; a minibatch with more takes several. All by default.
    """

    def step(*tensors: Tensor) -> None:
        rows = len(tensors[0])
        for part in zip(*(tensor.split(at_once or rows) for tensor in tensors), strict=True):
            (loss(*part) * (len(part[0]) / rows)).backward()
        nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if minibatch[0].is_cuda and not waits_for_the_gpu(lambda: loss(*(x[: at_once or len(x)] for x in minibatch))):
        with _graphed(module, optimizer, step, minibatch) as replay:
            yield replay
    else:
        yield step
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def _graphed(
    module: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[..., None], minibatch: tuple[Tensor, ...]
) -> Iterator[Callable[..., None]]:
    """The step as a graph; products run in TF32 in it where the GPU has it: a fit stops orders of magnitude before
    float32's last digits."""
    device, minibatch = minibatch[0].device, tuple(tensor.clone() for tensor in minibatch)
    weights = snapshot(module)
    with torch.cuda.device(device), tf32_products(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # of the capture, and waited for
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):  # compiles and tunes kernels, and makes the optimiser's state
                step(*minibatch)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step(*minibatch)
    module.load_state_dict(weights)
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()

    def replay(*tensors: Tensor) -> None:
        for own, new in zip(minibatch, tensors, strict=True):
            own.copy_(new)
        graph.replay()

    yield replay


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
