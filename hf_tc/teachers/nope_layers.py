# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which layers of a teacher ignore positions (NoPE), measured: families decide it in ways no attribute tells."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers
from hf_tc.teachers.offloading import execution_device

PROBE_TOKENS = 4


def find_nope_layers(teacher: PreTrainedModel) -> list[int]:
    """Indices of the layers whose attention gives the same output when its rotation is turned off, ascending.

    One forward of four tokens, in which each attention runs twice on the same input.
    """
    layers = find_decoder_layers(teacher.base_model)
    unrotated: list[int] = []
    handles = [
        find_attention(layer)[1].register_forward_hook(_compare_without_rotation(index, unrotated), with_kwargs=True)
        for index, layer in enumerate(layers)
    ]
    ids = torch.arange(1, PROBE_TOKENS + 1, device=execution_device(teacher.get_input_embeddings()))[None]
    try:
        with torch.no_grad(), evaluating(teacher):
            teacher.base_model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return unrotated


def _compare_without_rotation(index: int, unrotated: list[int]) -> Any:
    def compare(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        rotation = kwargs.get("position_embeddings")
        if rotation is not None:
            cos, sin = rotation
            kwargs = {**kwargs, "position_embeddings": (torch.ones_like(cos), torch.zeros_like(sin))}
            if not torch.equal(attention.forward(*args, **kwargs)[0], output[0]):
                return
        unrotated.append(index)

    return compare


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switches dropout off, and each module back to the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
