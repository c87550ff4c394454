# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which part of a model computes NaN or infinity first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tc.teachers.finite_weights import is_finite
from hf_tc.teachers.nope_layers import evaluating


def not_finite(model: PreTrainedModel, inputs: Mapping[str, Any]) -> str:
    """What to say of a model whose logits of these inputs are not finite; runs it once more."""
    with torch.no_grad(), evaluating(model), watching_outputs({"model": model}) as found:
        model.forward(**inputs, use_cache=False)
    first = f", first of all the output of its {found[0][1]}" if found else ""
    return (
        f"The logits of the {type(model).__name__} {model.name_or_path or 'without a name'} are NaN or "
        f"infinite{first}. Load it in bfloat16 or float32 if this was float16, or take other weights: those of a "
        "training that diverged are of no use."
    )


@contextmanager
def watching_outputs(models: Mapping[str, nn.Module]) -> Iterator[list[tuple[str, str]]]:
    """Collects role and name of each module whose output has NaN or infinity, in the order of computation."""
    found: list[tuple[str, str]] = []

    def look_at(role: str, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, arguments: Any, output: Any) -> None:
            if not all(is_finite(tensor) for tensor in _tensors(output)):
                found.append((role, name))

        return look

    handles = [
        module.register_forward_hook(look_at(role, name))
        for role, model in models.items()
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> list[Tensor]:
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else [output]
    return [part for part in parts if isinstance(part, Tensor)]
