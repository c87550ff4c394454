# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Step sizes follow the size of weights and inputs: the same fit in other units takes the same steps."""

import copy
import math

import pytest
import torch
from planted import captured_layer, fresh_mixer, random_blocks, tiny_teacher
from tiny_models import student

from hf_tc.alignment.layerwise import align_layer
from hf_tc.alignment.step_sizes import adam, input_sizes, size_of, step_sizes
from hf_tc.config import AlignmentConfig
from hf_tc.modeling.gated_deltanet import GatedDeltaNet

SETTINGS = AlignmentConfig(steps=8, batch_tokens=96, gate_learning_rate=4e-3, teacher_step=0.01)


def rates(mixer: GatedDeltaNet, input_size: float) -> dict[str, float]:
    names = {parameter: name for name, parameter in mixer.named_parameters()}
    return {names[parameter]: rate for parameter, rate in step_sizes(mixer, input_size, SETTINGS)}


def test_every_weight_has_its_step() -> None:
    mixer = fresh_mixer(tiny_teacher("qwen2"))
    with torch.no_grad():
        mixer.q_proj.weight.fill_(0.5)
        mixer.k_proj.weight.zero_()
    found = rates(mixer, input_size=4.0)
    assert found.keys() == dict(mixer.named_parameters()).keys()
    assert found["q_proj.weight"] == pytest.approx(0.005)
    assert found["q_proj.bias"] == pytest.approx(0.02)
    assert found["b_proj.weight"] == found["a_proj.weight"] == found["g_proj.weight"] == 1e-3
    assert found["b_proj.bias"] == found["A_log"] == found["short_conv.weight"] == 4e-3
    assert 0 < found["k_proj.weight"] < 1e-6


@pytest.mark.parametrize("scale", [0.03, 30.0])
def test_a_fit_does_not_depend_on_the_scale_of_the_input(scale: float) -> None:
    """Inputs times a number, weights that read them divided by it: the same layer, and the same fit of it."""
    teacher = tiny_teacher("qwen2")
    mixer, captured, held_out = (
        fresh_mixer(teacher),
        *(captured_layer(teacher, random_blocks(6, 24, n)) for n in (0, 1)),
    )
    scaled = copy.deepcopy(mixer)
    readers = ("q_proj", "k_proj", "v_proj", "a_proj", "b_proj", "g_proj")
    with torch.no_grad():
        for name in readers:
            getattr(scaled, name).weight.div_(scale)
    plain_error = align_layer(mixer, captured, held_out, SETTINGS, seed=0)
    for part in (captured, held_out):
        part.attn_input = part.attn_input * scale
    assert align_layer(scaled, captured, held_out, SETTINGS, seed=0) == pytest.approx(plain_error, rel=1e-3)


def test_inputs_are_those_of_the_model() -> None:
    model = student("llama").eval()
    mixers = [module for module in model.modules() if isinstance(module, GatedDeltaNet)]
    seen = []
    handle = mixers[0].register_forward_pre_hook(
        lambda _, arguments, named: seen.append(named.get("hidden_states", *arguments[:1])), with_kwargs=True
    )
    tokens = random_blocks(2, 16)
    sizes = input_sizes(model, mixers, tokens)
    handle.remove()
    assert sizes[0] == pytest.approx(seen[0].square().mean().sqrt().item())
    assert len(sizes) == len(mixers)
    assert all(not mixer._forward_pre_hooks for mixer in mixers)


def test_the_size_of_a_tensor() -> None:
    assert size_of(torch.tensor([3.0, -4.0], dtype=torch.bfloat16)) == pytest.approx(math.sqrt(12.5))


def test_equal_rates_share_a_group() -> None:
    mixer = fresh_mixer(tiny_teacher("qwen3"))
    optimizer = adam(step_sizes(mixer, 1.0, SETTINGS))
    learning_rates = [group["lr"] for group in optimizer.param_groups]
    assert len(set(learning_rates)) == len(learning_rates)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(mixer.parameters()))
