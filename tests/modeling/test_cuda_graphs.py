# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Graphed functions and layers against the same without graphs, call by call as shapes come back and change."""

import pytest
import torch
from library_names import checkpoint_activations
from test_gated_delta_rule import relative_error
from tiny_models import pad_rows, student, token_ids
from torch import Tensor

from hf_tc.modeling import cuda_graphs
from hf_tc.modeling.fused_mixer import mixed

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SIZES = dict(hidden_size=64, head_dim=32, num_attention_heads=2, num_key_value_heads=1)


@pytest.fixture(autouse=True)
def no_graphs_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "RECURRENCES", 3)
    cuda_graphs.release()


def weighted(*, x: Tensor, weight: Tensor, mask: Tensor | None, power: int) -> Tensor:
    product = (x * weight).pow(power)
    return product if mask is None else product * mask


def gradients_of(x: Tensor, weight: Tensor, mask: Tensor | None) -> list[Tensor]:
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    output = cuda_graphs.call_graphed(weighted, {"x": leaves[0], "weight": leaves[1], "mask": mask}, power=3)
    return [output.detach(), *torch.autograd.grad(output.sin().sum(), leaves)]


def test_without_a_gpu_the_function_itself_is_called() -> None:
    x, weight = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0])
    for _ in range(5):
        output, dx, dw = gradients_of(x, weight, torch.tensor([1.0, 0.0]))
    assert output.tolist() == [8.0, 0.0]
    torch.testing.assert_close(dx, torch.tensor([12.0, 0.0]) * torch.tensor(8.0).cos())
    torch.testing.assert_close(dw, torch.tensor([24.0, 0.0]) * torch.tensor(8.0).cos())
    assert not cuda_graphs._graphed


@needs_gpu
def test_values_and_gradients_are_the_functions_own() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    for call in range(12):
        rows = 5 if call % 2 else 7
        x, weight = torch.randn(rows, 4, device="cuda", generator=generator), torch.randn(4, device="cuda")
        mask = torch.rand(rows, 1, device="cuda", generator=generator) if call % 3 else None
        for actual, expected in zip(
            gradients_of(x, weight, mask), gradients_of(x.cpu(), weight.cpu(), None if mask is None else mask.cpu()),
            strict=True,
        ):  # fmt: skip
            torch.testing.assert_close(actual.cpu(), expected)
    assert len(cuda_graphs._graphed) == 2  # two lengths with a mask came three times, those without twice


@needs_gpu
def test_calls_between_a_forward_and_its_backward_change_nothing() -> None:
    """As in a model, where all layers run before the first gradient."""
    inputs = [torch.full((3,), float(n), device="cuda") for n in range(1, 6)]
    weight = torch.ones(3, device="cuda", requires_grad=True)
    for _ in range(2):
        weight.grad = None
        outputs = [
            cuda_graphs.call_graphed(weighted, {"x": x, "weight": weight, "mask": None}, power=2) for x in inputs
        ]
        torch.stack(outputs).sum().backward()
        assert weight.grad.tolist() == [2.0 * (1 + 4 + 9 + 16 + 25)] * 3
    assert len(cuda_graphs._graphed) == 1


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_student_trains_by_graphs_as_without(dtype: torch.dtype, padded: bool, checkpointing: bool) -> None:
    model = student("qwen3", (0, 1, 2), **SIZES).cuda().train()
    if checkpointing:
        checkpoint_activations(model)
    ids, mask = (x.cuda() for x in pad_rows([token_ids(70), token_ids(40, seed=2)], [0, 30], 70))
    batch = {"input_ids": ids, "attention_mask": mask if padded else None, "use_cache": False}
    results = []
    for _ in range(4):
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(**batch).logits
        logits.float().square().sum().backward()
        results.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert [key[0] for key in cuda_graphs._graphed] == ([] if checkpointing else [mixed])
    for name, expected in results[0].items():
        assert relative_error(results[-1][name], expected) < (1e-5 if dtype == torch.float32 else 2e-2), name


@needs_gpu
def test_shapes_without_end_are_not_graphed() -> None:
    for length in range(1, 20):
        for _ in range(4):
            gradients_of(torch.ones(length, 4, device="cuda"), torch.ones(4, device="cuda"), None)
    assert len(cuda_graphs._graphed) == cuda_graphs.MOST_GRAPHS
