# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A step in parts is the step of the whole; a model with rows of a fit reads no value back."""

import copy
from typing import Any

import pytest
import torch
from conversion_inputs import letter_teacher
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_tc.alignment.training_step import training_step
from hf_tc.alignment.unmasked_rows import unmasked_rows


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_step_in_several_passes_is_the_step_of_the_minibatch(at_once: int) -> None:
    torch.manual_seed(0)
    whole = nn.Linear(3, 2).double()
    parts, rows = copy.deepcopy(whole), torch.randn(7, 3).double()
    for module, size in ((whole, None), (parts, at_once)):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        loss = lambda x, module=module: module(x).square().mean()  # noqa: E731
        with training_step(module, optimizer, loss, (rows,), clip=1e9, at_once=size) as step:
            step(rows)
            step(rows)
    torch.testing.assert_close(parts.weight, whole.weight)


class ValuesRead(TorchDispatchMode):
    """Counts the values that Python reads off tensors, for which it would wait on a GPU."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "_local_scalar_dense" in function.name()
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2"])
def test_forwards_of_unmasked_rows_do_not_wait(family: str) -> None:
    teacher = letter_teacher(family).eval()
    tokens = torch.arange(10).view(1, 10)
    expected = teacher(tokens, use_cache=False).logits
    with unmasked_rows(), ValuesRead() as read:
        logits = teacher(tokens, use_cache=False).logits
    assert torch.equal(logits, expected)
    assert read.count == 0
