# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Functions of tensors as CUDA graphs, one of the value and one of the gradients.

While a small model trains, launching the kernels of a layer takes several times longer than running them; a graph
launches them all at once. The graphs of a function serve all layers that call it with tensors of the same shapes: a
layer keeps its inputs for the backward pass, and from these the second graph computes forward and backward.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

RECURRENCES = 64  # calls with the same shapes before they are worth graphs, which take memory and a moment to make
MOST_GRAPHS = 4  # shapes; training on more of them, as without padding to a fixed length, goes on without new graphs
MOST_ELEMENTS = 2**24  # of the inputs together: larger ones keep the GPU busy anyhow

_seen: Counter[Hashable] = Counter()
_graphed: dict[Hashable, "GraphedFunction"] = {}


def call_graphed(function: Callable[..., Tensor], tensors: dict[str, Tensor | None], **constants: Hashable) -> Tensor:
    """`function(**tensors, **constants)`, by graphs once its shapes keep coming back in training on a GPU.

    Args:
        function: of the module level; gives one tensor, and leaves nothing else behind.
        tensors: by name; gradients reach those that require them.
        constants: part of what the function is.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if not _can_be_graphed(list(given.values())):
        return function(**tensors, **constants)
    stream = torch.cuda.current_stream().cuda_stream
    shapes = tuple((name, x.shape, x.dtype, x.device, x.requires_grad) for name, x in given.items())
    key = (function, shapes, tuple(sorted(constants.items())), stream)
    graphs = _graphed.get(key)
    if graphs is None:
        _seen[key] += 1
        if _seen[key] < RECURRENCES or len(_graphed) >= MOST_GRAPHS:
            return function(**tensors, **constants)
        missing = {name: None for name in tensors if name not in given}
        graphs = _graphed[key] = GraphedFunction(lambda **x: function(**x, **missing, **constants), given)
    return _Replay.apply(graphs, *given.values())


def release() -> None:
    """Lets go of all graphs and their memory; what still trains makes its own again."""
    _graphed.clear()
    _seen.clear()


def _can_be_graphed(tensors: list[Tensor]) -> bool:
    return (
        torch.is_grad_enabled()
        and all(x.is_cuda and type(x) in (Tensor, torch.nn.Parameter) for x in tensors)
        and any(x.requires_grad for x in tensors)
        and sum(x.numel() for x in tensors) <= MOST_ELEMENTS
        and not torch.compiler.is_compiling()
        and not _saves_in_another_way()
        and not torch.cuda.is_current_stream_capturing()
    )


def _saves_in_another_way() -> bool:
    """Whether something watches what is saved for the backward pass, such as gradient checkpointing, whose second
    forward has to save what the first one saved: graphs must not begin in between."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


class GraphedFunction:
    """Both graphs of one function for inputs like the given ones."""

    def __init__(self, function: Callable[..., Tensor], inputs: dict[str, Tensor]) -> None:
        device = next(iter(inputs.values())).device
        with torch.cuda.device(device), warnings.catch_warnings():
            # Gradients of the captured pass come from its stream, and are waited for.
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
            self.inputs = {name: x.detach().clone().requires_grad_(x.requires_grad) for name, x in inputs.items()}
            self._inputs = [x.detach() for x in self.inputs.values()]
            self.trained = [x for x in self.inputs.values() if x.requires_grad]
            self._warm_up(function)
            self.value_graph, self.gradient_graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            capture: dict[str, Any] = {"pool": pool, "stream": stream, "capture_error_mode": "thread_local"}
            with torch.no_grad(), torch.cuda.graph(self.value_graph, **capture):
                self.output = function(**self.inputs)
            self.output_gradient = torch.zeros_like(self.output)
            with torch.enable_grad(), torch.cuda.graph(self.gradient_graph, **capture):
                self.gradients = torch.autograd.grad(function(**self.inputs), self.trained, self.output_gradient)

    def _warm_up(self, function: Callable[..., Tensor]) -> None:
        """Compiles and tunes whatever the function runs, none of which may happen during the capture."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                with torch.no_grad():
                    function(**self.inputs)
                with torch.enable_grad():
                    output = function(**self.inputs)
                torch.autograd.grad(output, self.trained, torch.zeros_like(output))
        torch.cuda.current_stream().wait_stream(side)

    def value(self, inputs: tuple[Tensor, ...]) -> Tensor:
        torch._foreach_copy_(self._inputs, inputs)
        self.value_graph.replay()
        return self.output.clone()

    def gradient(self, inputs: tuple[Tensor, ...], output_gradient: Tensor) -> list[Tensor | None]:
        """By input; None for those without."""
        torch._foreach_copy_([*self._inputs, self.output_gradient], [*inputs, output_gradient])
        self.gradient_graph.replay()
        gradients = iter(self.gradients)
        return [next(gradients).clone() if x.requires_grad else None for x in self.inputs.values()]


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graphs: GraphedFunction, *inputs: Tensor) -> Tensor:
        ctx.graphs = graphs
        ctx.save_for_backward(*inputs)
        return graphs.value(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Any, ...]:
        return None, *ctx.graphs.gradient(ctx.saved_tensors, output_gradient)
