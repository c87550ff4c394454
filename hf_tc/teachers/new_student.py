# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student around a teacher: the retained part taken over, recurrent layers on the teacher's projections.

Filled from the teacher object, never from its files: runtime names are the student's names, whatever the checkpoint
calls them.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_tc.modeling import GatedDeltaNet, HybridGDNConfig, HybridGDNForCausalLM
from hf_tc.modeling.configuration_hybrid_gdn import LINEAR_ATTENTION
from hf_tc.modeling.teacher_attention import (
    FUSED_PROJECTION_NAMES,
    NORM_AFTER_ROTATION,
    NORM_BEFORE_ROTATION,
    OUTPUT_PROJECTION_NAMES,
    find_attention,
    find_decoder_layers,
    query_key_norms,
    split_fused_projection,
)
from hf_tc.teachers.nope_layers import find_nope_layers
from hf_tc.teachers.norm_direction import folded_norm
from hf_tc.teachers.offloading import stored_weights

# Other names for what every mixer calls o_proj, q_norm and k_norm.
MIXER_NAMES = dict.fromkeys(OUTPUT_PROJECTION_NAMES, "o_proj") | {
    name: mixer_name
    for pair in (*NORM_BEFORE_ROTATION, *NORM_AFTER_ROTATION)
    for name, mixer_name in zip(pair, ("q_norm", "k_norm"), strict=True)
}
# What a recurrent layer has and attention has not.
NEW_IN_MIXER = ("A_log", "dt_bias", "a_proj", "b_proj", "g_proj", "o_norm", "short_conv", "first_token_weight")
# What attention does to its weights or its output; the recurrent layer has its decay and its output gate instead, which
# calibration fits to what enters the teacher's output projection, so after all of this.
REPLACED_IN_MIXER = ("sinks", "attn_sub_norm", "gate_proj", "gate_bias", "indexer")


def is_new_in_mixer(name: str) -> bool:
    """Whether a parameter of a mixer, by its name in it, is one that the teacher had not."""
    return not set(NEW_IN_MIXER).isdisjoint(name.split("."))


def build_student(
    teacher: PreTrainedModel,
    layer_types: list[str] | None = None,
    *,
    config_kwargs: Mapping[str, Any] | None = None,
    share_weights: bool = False,
) -> HybridGDNForCausalLM:
    """A student with the teacher's weights, and gates at their usual initialisation; the teacher stays as it is.

    Args:
        teacher: a causal language model that `check_teacher` accepts.
        layer_types: one entry a layer, "linear_attention" where the student is to be recurrent; nowhere by default.
        config_kwargs: further fields of `HybridGDNConfig`.
        share_weights: the retained part of the student uses the teacher's storage instead of a copy. Projections of
            recurrent layers are copies either way, since calibration writes to them.

    A student of an offloaded or quantised teacher has those weights in host memory; see `hf_tc.teachers.offloading`.

    Raises:
        RuntimeError: the teacher has a parameter the student has no place for, or the other way round.
    """
    config = HybridGDNConfig(
        text_config=_without_quantisation(teacher.config),
        layer_types=layer_types,
        nope_layers=find_nope_layers(teacher),
        **config_kwargs or {},
    )
    linear_layers, config.layer_types = config.linear_layers, config.teacher_layer_types  # none is recurrent yet
    config.dtype = teacher.dtype
    config._attn_implementation = teacher.config._attn_implementation
    with torch.device("meta"):
        student = HybridGDNForCausalLM(config)
    weights = {name: tensor if share_weights else tensor.clone() for name, tensor in stored_weights(teacher)}
    found = student.load_state_dict(weights, strict=False, assign=True)
    _check_complete(type(teacher).__name__, found.missing_keys, found.unexpected_keys)
    student.tie_weights()
    _copy_runtime_state(teacher, student)
    student.generation_config = copy.deepcopy(teacher.generation_config)
    student.train(teacher.training)
    make_recurrent(student, linear_layers)
    return student


def make_recurrent(student: HybridGDNForCausalLM, layers: Iterable[int]) -> dict[int, tuple[str, nn.Module]]:
    """Puts a recurrent mixer, on copies of the attention's projections, into each of these layers of a student.

    Returns:
        By layer, name and module of the attention that was there, for `restore_attention`.

    Raises:
        RuntimeError: an attention has a parameter that the mixer has no place for, or the other way round.
    """
    replaced = {}
    for index in layers:
        layer = find_decoder_layers(student.base_model)[index]
        name, attention = find_attention(layer)
        setattr(layer, name, _mixer_in_place_of(attention, index, student))
        replaced[index] = name, attention
    _set_layer_types(student, dict.fromkeys(replaced, LINEAR_ATTENTION))
    return replaced


def restore_attention(student: HybridGDNForCausalLM, replaced: Mapping[int, tuple[str, nn.Module]]) -> None:
    """Undoes `make_recurrent`."""
    for index, (name, attention) in replaced.items():
        setattr(find_decoder_layers(student.base_model)[index], name, attention)
    _set_layer_types(student, {index: student.config.teacher_layer_types[index] for index in replaced})


def mixer_of(student: HybridGDNForCausalLM, layer: int) -> GatedDeltaNet:
    """The recurrent mixer of a converted layer."""
    modules = find_decoder_layers(student.base_model)[layer].modules()
    return next(module for module in modules if isinstance(module, GatedDeltaNet))


def teachers_mixer(teacher: PreTrainedModel, student: HybridGDNForCausalLM, layer: int) -> GatedDeltaNet:
    """A mixer with the attention's own norms and biases, whatever form the student's have: its q, k and v are the
    teacher's. To measure with; its weights are where the teacher's are stored."""
    config = copy.deepcopy(student.config)
    config.recurrent_qk_norm = config.recurrent_bias = True
    config.layer_types = config.teacher_layer_types
    config.layer_types[layer] = LINEAR_ATTENTION
    with torch.device("meta"):
        mixer = mixer_of(HybridGDNForCausalLM(config), layer)
    attention = find_attention(find_decoder_layers(teacher.base_model)[layer])[1]
    name = next(name for name, module in teacher.named_modules() if module is attention)
    weights = {key.removeprefix(f"{name}."): tensor for key, tensor in stored_weights(teacher, within=f"{name}.")}
    return _filled(mixer, weights, attention, student)


def _set_layer_types(student: HybridGDNForCausalLM, changed: Mapping[int, str]) -> None:
    kinds = student.config.layer_types or []
    student.config.layer_types = [changed.get(index, kind) for index, kind in enumerate(kinds)]


def _without_quantisation(config: PreTrainedConfig) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    vars(config).pop("quantization_config", None)
    return config


def _mixer_in_place_of(attention: nn.Module, layer: int, student: HybridGDNForCausalLM) -> GatedDeltaNet:
    adopted = copy.deepcopy(attention)
    with torch.device("meta"):
        mixer = GatedDeltaNet(student.config, layer, adopted)
    return _filled(mixer, attention.state_dict(), attention, student)


def _filled(
    mixer: GatedDeltaNet, tensors: Mapping[str, torch.Tensor], attention: nn.Module, student: HybridGDNForCausalLM
) -> GatedDeltaNet:
    """A mixer that is on the meta device, with copies of an attention's tensors, given by their names in it."""
    weights = _in_form(_mixer_weights(tensors, attention, mixer), attention, mixer)
    unexpected = [key for key in weights if key.startswith(NEW_IN_MIXER)]  # a teacher's g_proj is not our g_proj
    found = mixer.load_state_dict({k: w for k, w in weights.items() if k not in unexpected}, strict=False, assign=True)
    missing = [key for key in found.missing_keys if not key.startswith(NEW_IN_MIXER)]
    _check_complete(
        f"layer {mixer.layer_idx}: {type(attention).__name__}", missing, [*unexpected, *found.unexpected_keys]
    )
    _initialise_new_parameters(student, mixer)
    return mixer.train(attention.training)


def _check_complete(teacher: str, missing: list[str], unexpected: list[str]) -> None:
    if missing or unexpected:
        raise RuntimeError(
            f"Teacher {teacher} and student differ in more than the recurrent layers: the teacher lacks {missing}, the "
            f"student has no place for {unexpected}. The attention of this family is not known well enough to convert "
            "it; retain the layers named here, or report it."
        )


def _mixer_weights(
    tensors: Mapping[str, torch.Tensor], attention: nn.Module, mixer: GatedDeltaNet
) -> dict[str, torch.Tensor]:
    """Copies of an attention's tensors under the mixer's names; a fused projection is split."""
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        owner, _, kind = name.rpartition(".")
        if owner in FUSED_PROJECTION_NAMES:
            parts = split_fused_projection(tensor, attention, (mixer.num_heads, mixer.num_kv_heads, mixer.head_dim))
            weights |= {f"{part}_proj.{kind}": rows.clone() for part, rows in zip("qkv", parts, strict=True)}
        elif name.split(".")[0] not in REPLACED_IN_MIXER:
            weights[f"{MIXER_NAMES.get(owner, owner)}.{kind}".removeprefix(".")] = tensor.clone()
    return weights


def _in_form(weights: dict[str, torch.Tensor], attention: nn.Module, mixer: GatedDeltaNet) -> dict[str, torch.Tensor]:
    """Without what the form of the mixer has no place for: norms of q and k go into the projections, biases are left
    to the fit of the weights."""
    if mixer.q_norm is None:
        norms = zip("qk", query_key_norms(attention)[:2], strict=True)
        weights |= {f"{x}_proj.weight": folded_norm(weights[f"{x}_proj.weight"], n, mixer.head_dim) for x, n in norms}
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(("q_norm", "k_norm"))}
    if mixer.b_proj.bias is None:
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith("_proj.bias")}
    return weights


def _initialise_new_parameters(student: HybridGDNForCausalLM, mixer: GatedDeltaNet) -> None:
    """Gives the gates memory beside the projections taken over, and the model's own initial values."""
    tensor = mixer.o_proj.weight
    for module in mixer.modules():
        new = {name: p for name, p in module.named_parameters(recurse=False) if p.is_meta}
        for name, parameter in new.items():
            empty = torch.empty(parameter.shape, dtype=tensor.dtype, device=tensor.device)
            setattr(module, name, nn.Parameter(empty))
        if new:
            student._init_weights(module)


def _copy_runtime_state(teacher: PreTrainedModel, student: HybridGDNForCausalLM) -> None:
    """Buffers that are not saved (rotary frequencies, embedding scales) and the counters kept beside them.

    Copied, not computed again: `teacher.to(bfloat16)` and a dynamic rotary table change them, and the student must
    rotate as the teacher does.
    """
    teacher_modules = dict(teacher.named_modules())
    for name, module in student.named_modules():
        missing = {key for key, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        if not missing:
            continue
        source = teacher_modules[name]
        for key in missing:
            module._buffers[key] = source._buffers[key].detach().clone()
        for key, value in vars(source).items():
            if isinstance(value, torch.Tensor):
                setattr(module, key, value.clone())
            elif isinstance(value, (int, float)) and not key.startswith("_"):
                setattr(module, key, value)
