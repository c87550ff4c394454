# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Steps of `generate` as a CUDA graph: launching the kernels of a small model takes several times longer than they run.

No `torch.compile`, which takes longer to compile a shape than a round of sampling takes, and rounds differ in shape.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from transformers import Cache, PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer, StaticSlidingWindowLayer

from hf_tc.evaluation.lm_head import forward_restorer
from hf_tc.teachers.gpu_waits import waits_for_the_gpu


def cache_in_place(model: PreTrainedModel, tokens: int) -> StaticCache:
    """A cache of so many tokens whose keys and values stay where they are.

    Layers with a window keep all tokens too, and have the window in their mask: the library's own count what they hold
    in Python, where a graph does not count on.
    """
    cache = StaticCache(config=model.config, max_cache_len=tokens)
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, StaticSlidingWindowLayer):
            cache.layers[index] = StaticLayer(tokens)
    return cache


@contextmanager
def graphed_decoding(model: PreTrainedModel, cache: Cache) -> Iterator[None]:
    """Inside, calls of a model on a GPU with one token a row and this cache are replayed from a graph of the first one.

    A model that cannot be captured runs as ever: one that waits for the GPU, or that is spread over devices.
    """
    device_map = getattr(model, "hf_device_map", None)
    is_static = all(type(layer) is StaticLayer for layer in cache.layers)
    if model.device.type != "cuda" or device_map is not None or not is_static:
        yield
        return
    restore = forward_restorer(model)
    model.forward = functools.wraps(model.forward)(_GraphedStep(model.forward, cache))
    try:
        yield
    finally:
        restore()


class _GraphedStep:
    """A forward pass that becomes a graph once it is called with one token a row."""

    def __init__(self, forward: Any, cache: Cache) -> None:
        self.forward, self.cache = forward, cache
        self.inputs: list[Tensor] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.can_be_graph = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.can_be_graph or args or kwargs["input_ids"].shape[1] != 1:
            return self.forward(*args, **kwargs)
        flat, form = tree_flatten({name: x for name, x in kwargs.items() if isinstance(x, Tensor | dict)})
        others = {name: x for name, x in kwargs.items() if not isinstance(x, Tensor | dict)}
        tensors = [x for x in flat if isinstance(x, Tensor)]
        if self.inputs is None or [x.shape for x in tensors] != [x.shape for x in self.inputs]:
            self.inputs = [x.clone() for x in tensors]
            own = iter(self.inputs)
            held = tree_unflatten([next(own) if isinstance(x, Tensor) else x for x in flat], form)
            if not self._capture(lambda: self.forward(**held, **others)):
                return self.forward(**kwargs)
        torch._foreach_copy_(self.inputs, tensors)
        assert self.graph is not None
        self.graph.replay()
        return self.output

    def _capture(self, step: Any) -> bool:
        """Makes the graph of a step, after which the cache is as before; whether it can be one."""
        lengths = [layer.cumulative_length for layer in self.cache.layers if isinstance(layer, StaticLayer)]
        before = [length.clone() for length in lengths]

        def first_step() -> None:
            step()
            torch._foreach_copy_(lengths, before)

        self.can_be_graph = not waits_for_the_gpu(first_step)
        torch._foreach_copy_(lengths, before)
        if self.can_be_graph:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.output = step()  # nothing runs yet
        return self.can_be_graph
