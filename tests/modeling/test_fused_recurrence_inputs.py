# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The fused kernels against the plain form: whole layers of several families, forward and backward, on a GPU.

Without a GPU Triton's interpreter runs the kernels themselves, which takes an environment of their own.
"""

from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from test_gated_delta_rule import LENGTHS, relative_error
from tiny_models import student
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from triton_interpreter import needs_triton, run_interpreted, stand_in_for_a_gpu

from hf_tc.modeling import GatedDeltaNet, fused_recurrence_inputs
from hf_tc.modeling import gated_deltanet as gated_deltanet_module
from hf_tc.modeling.fused_recurrence_inputs import can_be_fused
from hf_tc.modeling.masks import RecurrentMask
from hf_tc.modeling.plain_recurrence_inputs import plain_inputs
from hf_tc.modeling.recurrence_inputs import Projections, RecurrenceInputs

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ROUNDING = {torch.float32: 3e-5, torch.bfloat16: 1e-2}
FAMILIES = [
    "llama",
    "qwen2",
    "qwen3",
    "gemma3",
    "olmo2",
]  # none, biases, q/k norms: a head's, 1 + weight, all heads'


def random_mixer(family: str) -> GatedDeltaNet:
    """A layer all of whose weights matter: the convolution and the norms start as identities."""
    changes = dict(hidden_size=64, head_dim=16, num_attention_heads=4, num_key_value_heads=2)
    model = student("qwen3" if family == "gemma3" else family, (0,), **changes)
    mixer = next(module for module in model.modules() if isinstance(module, GatedDeltaNet))
    if family == "gemma3":  # whose norms multiply by 1 + weight
        mixer.q_norm, mixer.k_norm = Gemma3RMSNorm(16), Gemma3RMSNorm(16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return mixer


def draw_problem(mixer: GatedDeltaNet, length: int, kind: str) -> tuple[Projections, Any, RecurrentMask, Any]:
    generator = torch.Generator().manual_seed(length)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    channels, heads, size = mixer.short_conv.weight.shape[1], mixer.num_heads, mixer.head_dim
    projections = Projections(draw(2, length, channels), draw(2, length, heads), draw(2, length, heads), torch.ones(0))
    angles = draw(1, length, size // 2)
    rotation = tuple(torch.cat([x, x], dim=-1) for x in (angles.cos(), angles.sin()))
    position = torch.stack([torch.arange(length) % 9, torch.arange(length) % 40])
    masks = {
        "padded": RecurrentMask(padding=torch.rand(2, length, generator=generator) < 0.7),
        "packed": RecurrentMask(document_position=position),
    }
    past = draw(2, mixer.short_conv.kernel_size - 1, channels) if kind == "continued" else None
    return projections, rotation, masks.get(kind, RecurrentMask()), past


def moved(value: Any, to: Any) -> Any:
    """Tensors of a nested tuple on another device or, where they are floating point, in another dtype."""
    if isinstance(value, torch.Tensor):
        return value.to(to) if isinstance(to, str) or value.is_floating_point() else value
    if isinstance(value, tuple):
        parts = [moved(part, to) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def compare_with_plain_form(
    mixer: GatedDeltaNet, problem: tuple[Any, ...], dtype: torch.dtype, tolerance: float, fused: Any
) -> None:
    """Outputs and, where the layer does not continue a sequence, the gradients of inputs and parameters."""
    projections, rotation, mask, past = problem
    results = []
    for form, wide in ((fused, dtype), (plain_inputs, torch.float32)):
        mixer.to(wide)
        inputs = [x.to(wide).requires_grad_(past is None) for x in moved(projections[:3], dtype)]
        arguments = (Projections(*inputs, projections.gate), moved(moved(rotation, dtype), wide), mask)
        with torch.set_grad_enabled(past is None):
            outputs = form(mixer, *arguments, past if past is None else past.to(dtype).to(wide))
        assert isinstance(outputs, RecurrenceInputs)
        gradients = []
        if past is None:
            trained = [*inputs, mixer.short_conv.weight, mixer.A_log, mixer.dt_bias]
            trained += [norm.weight for norm in (mixer.q_norm, mixer.k_norm) if norm is not None]
            weights = [torch.sin(torch.arange(x.numel(), device=x.device)).view_as(x) for x in outputs]
            loss = sum((x.float() * w).sum() for x, w in zip(outputs, weights, strict=True))
            gradients = torch.autograd.grad(loss, trained)
        results.append([*outputs, *gradients])
    for actual, expected in zip(*results, strict=True):
        assert actual.shape == expected.shape
        assert relative_error(actual.float(), expected.float()) < tolerance


@needs_gpu
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("kind", ["plain", "padded", "packed", "continued"])
@pytest.mark.parametrize("length", [*LENGTHS, 4097])
def test_fused_inputs_equal_the_plain_form(length: int, kind: str, dtype: torch.dtype) -> None:
    mixer = random_mixer("llama").cuda()
    problem = moved(draw_problem(mixer, length, kind), "cuda")
    compare_with_plain_form(mixer, problem, dtype, ROUNDING[dtype], gated_deltanet_module.fused_recurrence_inputs)


@needs_gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_norms_and_biases_of_families(family: str) -> None:
    mixer = random_mixer(family).cuda()
    problem = moved(draw_problem(mixer, 70, "plain"), "cuda")
    assert can_be_fused(mixer, *problem[:2], None)
    compare_with_plain_form(mixer, problem, torch.float32, 1e-5, gated_deltanet_module.fused_recurrence_inputs)


@needs_gpu
@pytest.mark.parametrize("family", ["cohere2", "phi", "glm"])  # interleaved rotation, of some channels, of both kinds
def test_other_rotations_take_the_plain_form(family: str) -> None:
    model = student(family, (0,)).cuda()
    mixer = next(module for module in model.modules() if isinstance(module, GatedDeltaNet))
    problem = moved(draw_problem(mixer, 5, "plain"), "cuda")
    assert not can_be_fused(mixer, *problem[:2], None)


def test_weights_that_are_elsewhere_reach_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels read weights of submodules; those of an offloaded one are there only while it is called."""
    mixer, gpu = random_mixer("qwen3"), torch.device("cuda")
    monkeypatch.setattr(fused_recurrence_inputs, "triton", object())
    monkeypatch.setattr(fused_recurrence_inputs, "kernels_are_right", lambda *about: True)
    assert fused_recurrence_inputs.has_kernels(mixer, gpu, torch.float32, None)
    cpu_offload(mixer, torch.device("cpu"))
    assert not fused_recurrence_inputs.has_kernels(mixer, gpu, torch.float32, None)


@needs_gpu
def test_a_kernel_that_does_not_run_is_said_and_replaced(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("no such instruction")

    mixer = random_mixer("llama").cuda()
    projections, rotation, _, _ = moved(draw_problem(mixer, 5, "plain"), "cuda")
    fused_recurrence_inputs.kernels_are_right.cache_clear()
    monkeypatch.setattr(fused_recurrence_inputs, "fused_heads", broken)
    assert not can_be_fused(mixer, projections, rotation, None)
    fused_recurrence_inputs.kernels_are_right.cache_clear()


@needs_triton
def test_the_kernels_in_tritons_interpreter() -> None:
    """Padding, packing, continuation and every length that is a case of its own, on the CPU."""
    run_interpreted(__file__)


def interpret() -> None:
    """What the subprocess of the test above does."""
    stand_in_for_a_gpu()
    for family, length, kind in [
        ("llama", 1, "plain"),
        ("llama", 65, "padded"),
        ("llama", 65, "packed"),
        ("llama", 5, "continued"),
        ("gemma3", 5, "plain"),
    ]:
        mixer = random_mixer(family)
        problem = draw_problem(mixer, length, kind)
        compare_with_plain_form(mixer, problem, torch.float32, 1e-4, gated_deltanet_module.fused_recurrence_inputs)


if __name__ == "__main__":
    interpret()
