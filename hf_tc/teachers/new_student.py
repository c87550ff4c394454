# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student around a teacher: the retained part taken over, recurrent layers on the teacher's projections.

Filled from the teacher object, never from its files: runtime names are the student's names, whatever the checkpoint
calls them.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_tc.modeling import GatedDeltaNet, HybridGDNConfig, HybridGDNForCausalLM
from hf_tc.modeling.teacher_attention import (
    FUSED_PROJECTION_NAMES,
    NORM_AFTER_ROTATION,
    NORM_BEFORE_ROTATION,
    OUTPUT_PROJECTION_NAMES,
    split_fused_projection,
)
from hf_tc.teachers.nope_layers import find_nope_layers
from hf_tc.teachers.offloading import stored_weights

# Other names for what every mixer calls o_proj, q_norm and k_norm.
MIXER_NAMES = dict.fromkeys(OUTPUT_PROJECTION_NAMES, "o_proj") | {
    name: mixer_name
    for pair in (*NORM_BEFORE_ROTATION, *NORM_AFTER_ROTATION)
    for name, mixer_name in zip(pair, ("q_norm", "k_norm"), strict=True)
}
# What a recurrent layer has and attention has not.
NEW_IN_MIXER = ("A_log", "dt_bias", "a_proj", "b_proj", "g_proj", "o_norm", "short_conv")
# What attention does to its weights or its output; the recurrent layer has its decay and its output gate instead, which
# calibration fits to what enters the teacher's output projection, so after all of this.
REPLACED_IN_MIXER = ("sinks", "attn_sub_norm", "gate_proj", "gate_bias", "indexer")


def build_student(
    teacher: PreTrainedModel,
    layer_types: list[str],
    *,
    config_kwargs: Mapping[str, Any] | None = None,
    share_weights: bool = False,
) -> HybridGDNForCausalLM:
    """A student with the teacher's weights, and gates at their usual initialisation; the teacher stays as it is.

    Args:
        teacher: a causal language model that `check_teacher` accepts.
        layer_types: one entry a layer, "linear_attention" where the student is to be recurrent.
        config_kwargs: further fields of `HybridGDNConfig`.
        share_weights: the retained part of the student uses the teacher's storage instead of a copy. Projections of
            recurrent layers are copies either way, since calibration writes to them.

    A student of an offloaded or quantised teacher has those weights in host memory; see `hf_tc.teachers.offloading`.

    Raises:
        RuntimeError: the teacher has a parameter the student has no place for, or the other way round.
    """
    config = HybridGDNConfig(
        text_config=_without_quantisation(teacher.config),
        layer_types=list(layer_types),
        nope_layers=find_nope_layers(teacher),
        **config_kwargs or {},
    )
    config.dtype = teacher.dtype
    config._attn_implementation = teacher.config._attn_implementation
    with torch.device("meta"):
        student = HybridGDNForCausalLM(config)
    mixers = {name: module for name, module in student.named_modules() if isinstance(module, GatedDeltaNet)}
    _take_weights(student, mixers, teacher, share_weights)
    student.tie_weights()
    for mixer in mixers.values():
        _initialise_new_parameters(student, mixer)
    _copy_runtime_state(teacher, student)
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student.train(teacher.training)


def _without_quantisation(config: PreTrainedConfig) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    vars(config).pop("quantization_config", None)
    return config


def _take_weights(
    student: HybridGDNForCausalLM, mixers: Mapping[str, GatedDeltaNet], teacher: PreTrainedModel, share_weights: bool
) -> None:
    prefixes = tuple(f"{name}." for name in mixers)
    weights: dict[str, torch.Tensor] = {}
    attention_weights: dict[str, dict[str, torch.Tensor]] = {name: {} for name in mixers}
    for name, tensor in stored_weights(teacher):
        if name.startswith(prefixes):
            mixer_name = next(mixer for mixer in mixers if name.startswith(f"{mixer}."))
            attention_weights[mixer_name][name.removeprefix(f"{mixer_name}.")] = tensor
        else:
            weights[name] = tensor if share_weights else tensor.clone()
    for name, mixer in mixers.items():
        renamed = _mixer_weights(attention_weights[name], teacher.get_submodule(name), mixer)
        weights |= {f"{name}.{key}": tensor for key, tensor in renamed.items()}
    new = tuple(f"{prefix}{name}" for prefix in prefixes for name in NEW_IN_MIXER)
    unexpected = [key for key in weights if key.startswith(new)]  # a teacher's g_proj is not our g_proj
    result = student.load_state_dict(
        {k: w for k, w in weights.items() if k not in unexpected}, strict=False, assign=True
    )
    missing = [key for key in result.missing_keys if not key.startswith(new)]
    unexpected += result.unexpected_keys
    if missing or unexpected:
        raise RuntimeError(
            f"Teacher {type(teacher).__name__} and student differ in more than the recurrent layers: the teacher lacks "
            f"{missing}, the student has no place for {unexpected}. The attention of this family is not "
            "known well enough to convert it; retain the layers named here, or report it."
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
