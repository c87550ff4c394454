# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A small random model of a teacher's family, with the teacher's switches: what the self-check runs."""

import copy

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from hf_tc.modeling import HybridGDNConfig
from hf_tc.modeling.teacher_attention import head_dim_of

# A size of 0 or None stays: the family has no such part.
SMALL_VALUES = {
    "vocab_size": 96,
    "output_vocab_size": 80,
    "intermediate_size": 64,
    "intermediate_size_mlp": 64,
    "ffn_hidden_size": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "expert_ffn_hidden_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
    "mamba_n_heads": 4,
    "mamba_expand": 1,
    "sliding_window": 6,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def shrink_config(text_config: PreTrainedConfig, layers: int = 2) -> PreTrainedConfig:
    """The same family with the same switches, small: few heads of the same size, few layers with each layer type.

    Every value that changes what attention computes stays: head size, biases, norms, RoPE, window kind, multipliers.
    """
    small = copy.deepcopy(text_config)
    kept = _representative_layers(text_config, layers)
    total = text_config.num_hidden_layers
    for name, value in list(vars(small).items()):
        if isinstance(value, (list, tuple)) and len(value) == total:
            setattr(small, name, [value[i] for i in kept])
    heads = text_config.num_attention_heads
    head_dim = head_dim_of(text_config)
    grouped = (getattr(text_config, "num_key_value_heads", None) or heads) < heads
    small.num_hidden_layers = layers
    small.num_attention_heads = 4
    if hasattr(small, "num_key_value_heads"):
        small.num_key_value_heads = 2 if grouped else 4
    for name in ("head_dim", "mamba_d_head"):  # Mamba's sizes are checked where no layer is one, too
        if hasattr(small, name):
            setattr(small, name, head_dim)
    small.hidden_size = 4 * head_dim
    for name, value in SMALL_VALUES.items():
        if getattr(small, name, None):
            setattr(small, name, value)
    small.dtype = torch.float32
    small._attn_implementation = "eager"  # the one that every family has
    return small


def _representative_layers(config: PreTrainedConfig, count: int) -> list[int]:
    """Indices of layers that differ in type as far as `count` allows, ascending."""
    types = HybridGDNConfig(text_config=copy.deepcopy(config)).teacher_layer_types
    first_of_type = list(dict.fromkeys(types))
    chosen = [types.index(kind) for kind in first_of_type][:count]
    others = [i for i in range(len(types)) if i not in chosen]
    return sorted(chosen + others[: count - len(chosen)])


def random_teacher(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A model whose every weight matters: norms, biases and sinks off their usual ones and zeros. float32, eval."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    parameter.normal_(std=parameter.shape[-1] ** -0.5)
                else:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model
