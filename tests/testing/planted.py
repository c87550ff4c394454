# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tiny teachers, their recurrent mixers, and captured attention whose answer is planted."""

import copy
from dataclasses import replace
from typing import Any

import torch
from tiny_models import MIXER_FIELDS
from tiny_sizes import SIZES, VOCABULARY
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from hf_tc.calibration.capture_attention import CapturedAttention, LayerStream
from hf_tc.calibration.decay import dt_bias_of
from hf_tc.calibration.write_gate import write_gate_bias_of
from hf_tc.modeling.gated_delta_rule import gated_delta_rule
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.masks import RecurrentMask
from hf_tc.teachers.new_student import build_student, mixer_of
from hf_tc.teachers.small_teacher import random_teacher


def tiny_teacher(family: str = "llama", **changes: Any) -> PreTrainedModel:
    """A random model of the family; no norm or bias is at its usual one or zero."""
    return random_teacher(AutoConfig.for_model(family, **{**SIZES, **changes}))


def small_llama() -> PreTrainedModel:
    """Two layers, tied embeddings."""
    return tiny_teacher("llama", num_hidden_layers=2, tie_word_embeddings=True)


def random_blocks(count: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


def fresh_mixer(teacher: PreTrainedModel, layer: int = 0, **options: Any) -> GatedDeltaNet:
    """The mixer of a layer as a conversion finds it: the teacher's projections, gates not yet calibrated."""
    kinds = ["linear_attention"] * teacher.config.num_hidden_layers
    student = build_student(teacher, kinds, config_kwargs=options)
    return copy.deepcopy(mixer_of(student, layer)).float().requires_grad_(False)


def captured_layer(teacher: PreTrainedModel, blocks: Tensor, layer: int = 0, batch_size: int = 2) -> CapturedAttention:
    stream = LayerStream(teacher.base_model, blocks, batch_size)
    for index in range(layer):
        stream.advance(index)
    return stream.advance_and_capture(layer)


def plant_memory(mixer: GatedDeltaNet, half_life: Tensor, beta: Tensor) -> GatedDeltaNet:
    """Sets decay and write gate, per head `[H]`, in place; beta is 1/2 in a mixer whose gates have no bias."""
    with torch.no_grad():
        mixer.A_log.zero_()
        mixer.a_proj.weight.zero_()
        mixer.b_proj.weight.zero_()
        mixer.dt_bias.copy_(dt_bias_of(half_life))
        if mixer.b_proj.bias is not None:
            mixer.b_proj.bias.copy_(write_gate_bias_of(beta))
    return mixer


def planted_mixer(family: str = "llama", **changes: Any) -> tuple[GatedDeltaNet, CapturedAttention]:
    """A mixer with memories of several lengths, and the inputs of its layer."""
    options = {name: changes.pop(name) for name in MIXER_FIELDS if name in changes}
    teacher = tiny_teacher(family, **changes)
    mixer = fresh_mixer(teacher, **options)
    plant_memory(mixer, torch.tensor([3.0, 8.0, 20.0, 50.0]), torch.tensor([0.1, 0.5, 0.3, 0.9]))
    return mixer, captured_layer(teacher, random_blocks(6, 100))


def with_context(captured: CapturedAttention, context: Tensor) -> CapturedAttention:
    """The same inputs with another context `[N, T, H, V]` to fit."""
    return replace(captured, teacher_context=context.flatten(2))


@torch.no_grad()
def output_of(mixer: GatedDeltaNet, captured: CapturedAttention) -> Tensor:
    """The mixer's own output `[N, T, H, V]` on all captured blocks."""
    inputs = mixer.recurrence_inputs(captured.attn_input, captured.position_embeddings, RecurrentMask())
    return gated_delta_rule(**inputs._asdict())[0]


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()
