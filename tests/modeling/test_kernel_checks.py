# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A kernel is judged by its own numbers alone: what is wrong is said, what is around the check does not matter."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from hf_tc.modeling.gated_delta_rule import chunk_gated_delta_rule, recurrent_gated_delta_rule
from hf_tc.modeling.kernel_checks import kernel_is_right


def problem(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 65, 2, 16, generator=generator)
    decay, beta = torch.randn(2, 1, 65, 2, generator=generator)
    q, k, v = (x.to(dtype) for x in (F.normalize(q, dim=-1), F.normalize(k, dim=-1), v))
    return dict(q=q, k=k, v=v, log_decay=-F.softplus(decay), beta=beta.sigmoid())


def by_chunks(**inputs: Tensor) -> tuple[Tensor, ...]:
    return chunk_gated_delta_rule(**inputs)


def by_tokens(**inputs: Tensor) -> tuple[Tensor, ...]:
    return recurrent_gated_delta_rule(**inputs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_around_the_check_does_not_reach_it(
    dtype: torch.dtype, training: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its products in bfloat16 would fail the plain form, and training in mixed precision the kernel for its sake."""
    with torch.autocast("cpu", torch.bfloat16):
        assert kernel_is_right("the rule", by_chunks, by_tokens, problem(dtype), training)
        assert torch.is_autocast_enabled("cpu")
    assert not caplog.records


def keeps_products(context: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    keeps = operation == torch.ops.aten.mm.default
    return CheckpointPolicy.MUST_SAVE if keeps else CheckpointPolicy.PREFER_RECOMPUTE


@pytest.mark.parametrize("context", [{}, {"context_fn": partial(create_selective_checkpoint_contexts, keeps_products)}])
def test_the_first_forward_of_checkpointed_activations_may_check_a_kernel(context: dict[str, Any]) -> None:
    """What the check saves for its own gradients is none of theirs: it is not there when they are computed again."""
    checks = iter([True])

    def products(**inputs: Tensor) -> tuple[Tensor, ...]:
        return (inputs["a"] @ inputs["a"],)

    def layer(x: Tensor) -> Tensor:
        if next(checks, False):
            assert kernel_is_right("products", products, products, {"a": torch.full((3, 3), 2.0)}, training=True)
        return (x @ x).exp()

    x = (torch.arange(9.0).view(3, 3) / 9).requires_grad_()
    checkpoint(layer, x, use_reentrant=False, **context).sum().backward()
    gradient = x.grad
    (expected,) = torch.autograd.grad((x @ x).exp().sum(), x)
    assert torch.equal(gradient, expected)


def test_a_check_needs_no_hooks_where_they_are_forbidden() -> None:
    with torch.autograd.graph.disable_saved_tensors_hooks("none here"):
        assert kernel_is_right("the rule", by_chunks, by_tokens, problem(), training=True)


def test_a_kernel_with_other_numbers_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    def doubled(**inputs: Tensor) -> tuple[Tensor, ...]:
        output, state = by_chunks(**inputs)
        return 2 * output, state

    assert not kernel_is_right("the rule", doubled, by_tokens, problem(), training=False)
    assert "differs from the plain form by 100.0%" in caplog.text


def test_a_kernel_whose_gradient_alone_is_wrong_is_refused_for_training() -> None:
    def without_gradient(**inputs: Tensor) -> tuple[Tensor, ...]:
        nothing = 0 * sum(x.sum() for x in inputs.values())  # each takes part, with a gradient of zero
        return tuple(output.detach() + nothing for output in by_chunks(**inputs))

    assert kernel_is_right("the rule", without_gradient, by_tokens, problem(), training=False)
    assert not kernel_is_right("the rule", without_gradient, by_tokens, problem(), training=True)


def test_a_kernel_that_fails_is_refused_with_its_error(caplog: pytest.LogCaptureFixture) -> None:
    def broken(**inputs: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError("no shared memory\nand more")

    assert not kernel_is_right("the rule", broken, by_tokens, problem(), training=False)
    assert "raised RuntimeError: no shared memory." in caplog.text
