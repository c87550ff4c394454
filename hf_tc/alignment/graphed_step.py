# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One optimiser step of a fit as a CUDA graph: at the sizes of a short fit, launching takes longer than computing."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WARM_UP_STEPS = 3


@contextmanager
def graphed_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[..., Tensor],
    minibatch: tuple[Tensor, ...],
    clip: float,
) -> Iterator[Callable[..., None]]:
    """Yields a function that takes a minibatch and does one step: loss, gradients, clipping, optimiser.

    Products run in TF32 where the GPU has it: a fit stops orders of magnitude before float32's last digits.

    Args:
        module: on a GPU; its weights change in place.
        optimizer: capturable, its learning rates as tensors, so that a schedule reaches the graph.
        loss: of the tensors of a minibatch, in terms of the module's weights.
        minibatch: any, for its shapes.
    """
    device, minibatch = minibatch[0].device, tuple(tensor.clone() for tensor in minibatch)
    weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def step() -> None:
        loss(*minibatch).backward()
        nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with torch.cuda.device(device), _tf32(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # of the capture, and waited for
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):  # compiles and tunes kernels, and makes the optimiser's state
                step()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step()
    module.load_state_dict(weights)
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()

    def replay(*tensors: Tensor) -> None:
        for own, new in zip(minibatch, tensors, strict=True):
            own.copy_(new)
        graph.replay()

    yield replay
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def _tf32() -> Iterator[None]:
    """Float32 products in TF32, inside alone: what a graph has captured stays as it is."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = before
