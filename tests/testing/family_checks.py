# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What every reviewed family must pass, as numbers; read by test_family_parity.py and benchmarks/family_table.py."""

import copy
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from library_names import checkpoint_activations
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.cache_utils import StaticCache
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name

from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM
from hf_tc.teachers.new_student import build_student
from hf_tc.teachers.parity import (
    LENGTH,
    TOLERANCE,
    decode_difference,
    heads_difference,
    padding_difference,
    zero_converted_difference,
)
from hf_tc.teachers.small_teacher import SMALL_VALUES, random_teacher, shrink_config

BOTH_KINDS = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 4096,
}
SOME_SLIDING = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 1, "num_hidden_layers": 4}
GRANITE = {"attention_multiplier": 0.3, "logits_scaling": 2.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Switches that a family has and its default configuration leaves off.
SWITCHED_ON: dict[str, dict[str, Any]] = {
    "apertus1p5_text": {"output_vocab_size": 131272},
    "cohere": {"use_qk_norm": True},
    "cohere_compass_text": {
        **BOTH_KINDS,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": None,
        },
    },
    "dots1": {**BOTH_KINDS, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "gemma2": {"query_pre_attn_scalar": 144, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 5.0},
    "glm4_moe": {"use_qk_norm": True},
    "granite": GRANITE,
    "granitemoe": GRANITE,
    "granitemoehybrid": {
        **GRANITE,
        "layer_types": ["full_attention"] * 32,
        "position_embedding_type": "rope",
        "num_local_experts": 0,
    },
    "granitemoeshared": GRANITE,
    "llama": {"rope_parameters": LLAMA3_ROPE, "attention_bias": True, "tie_word_embeddings": True},
    "mellum": BOTH_KINDS,
    "ministral": BOTH_KINDS,
    "mixtral": {"sliding_window": 4096},
    "olmo": {"clip_qkv": 0.5},
    "olmoe": {"clip_qkv": 0.5},
    "phi": {"qk_layernorm": True},
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}},
    "phimoe": {"attention_bias": True, "sliding_window": 4096},
    "qwen2": SOME_SLIDING,
    "qwen2_moe": SOME_SLIDING,
    "qwen3": SOME_SLIDING,
    "qwen3_moe": {"use_sliding_window": True, "sliding_window": 4096},
    "starcoder2": {"sliding_window": 4096},
}


EXACT_CHECKS = ("zero converted", "checkpointing")


def allowed_difference(check: str) -> float:
    """The largest difference with which a check passes, on float32 logits of order 1."""
    return 0.0 if check in EXACT_CHECKS else TOLERANCE


def exists(model_type: str) -> bool:
    """Whether the installed Transformers has the family."""
    return model_type in CONFIG_MAPPING_NAMES


def family_config(model_type: str) -> PreTrainedConfig:
    """A two-layer configuration of the family with all its switches on."""
    return shrink_config(library_config_class(model_type)(**copy.deepcopy(SWITCHED_ON.get(model_type, {}))))


def library_config_class(model_type: str) -> type[PreTrainedConfig]:
    """The library's own, by whatever name: flash-linear-attention, once imported, registers a BitNet in its place."""
    module = import_module(f"transformers.models.{model_type_to_module_name(model_type)}")
    return getattr(module, CONFIG_MAPPING_NAMES[model_type])


def family_differences(model_type: str, folder: Path) -> dict[str, float]:
    """Each check's maximum difference; the student has one recurrent and one retained layer, or two recurrent ones."""
    config = family_config(model_type)
    teacher = random_teacher(config)
    types = HybridGDNConfig(text_config=copy.deepcopy(config)).teacher_layer_types
    ids = torch.randint(3, SMALL_VALUES["output_vocab_size"], (1, LENGTH), generator=torch.Generator().manual_seed(1))

    def student(*layer_types: str) -> HybridGDNForCausalLM:
        return build_student(teacher, list(layer_types))

    first, last = student("linear_attention", types[1]), student(types[0], "linear_attention")
    recurrent = student("linear_attention", "linear_attention")
    checks: dict[str, Callable[[], float]] = {
        "zero converted": lambda: zero_converted_difference(teacher, student(*types), ids),
        "q, k, v": lambda: heads_difference(teacher, recurrent, ids),
        "decode": lambda: max(decode_difference(model, ids) for model in (first, last, recurrent)),
        "padding": lambda: max(padding_difference(model, ids) for model in (first, last, recurrent)),
        "static cache": lambda: max(
            decode_difference(model, ids, StaticCache(config=config, max_cache_len=LENGTH + 2))
            for model in (first, recurrent)
        ),
        "save, load": lambda: saved_difference(first, ids, folder),
        "checkpointing": lambda: checkpointing_difference(last, ids),
    }
    differences = {}
    for name, measure in checks.items():
        with torch.set_grad_enabled(name == "checkpointing"):
            differences[name] = measure()
    return differences


def saved_difference(student: HybridGDNForCausalLM, ids: torch.Tensor, folder: Path) -> float:
    """Largest difference of the logits after saving and loading; the weights must be equal to the last bit.

    The logits need not be: loaded tensors are mapped from the file, and sums over another alignment end differently.
    """
    student.save_pretrained(folder)
    loaded, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation=student.config._attn_implementation
    )
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    weights = student.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    return (loaded(ids).logits - student(ids).logits).abs().max().item()


def checkpointing_difference(student: HybridGDNForCausalLM, ids: torch.Tensor) -> float:
    """Largest difference of any gradient with activations computed again from the one with activations kept."""
    kept = _gradients(student.train(), ids)
    checkpoint_activations(student, use_reentrant=False)
    again = _gradients(student, ids)
    assert any("A_log" in name for name in kept)
    return max((kept[name] - again[name]).abs().max().item() for name in kept)


def _gradients(student: HybridGDNForCausalLM, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    student.zero_grad()
    torch.manual_seed(0)
    student(ids, labels=ids, use_cache=False).loss.backward()
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
