# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tiny random teachers and students. Every weight is perturbed: zero biases and norms of one would hide mistakes."""

from typing import Any

import torch
from tiny_sizes import SIZES, VOCABULARY
from transformers import AutoConfig, DynamicCache, PreTrainedConfig, PreTrainedModel

from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM
from hf_tc.modeling.library_cache import cache_argument

COMMON = {**SIZES, "num_hidden_layers": 4, "max_position_embeddings": 128, "eos_token_id": None}
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, decoder_sparse_step=1)
MIXER_FIELDS = (
    *("conv_kernel_size", "conv_activation", "recurrent_rope", "recurrent_bias", "recurrent_qk_norm"),
    *("output_norm", "output_norm_eps", "first_token_value"),
)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": dict(rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "mistral": dict(sliding_window=6),
    "qwen2": dict(use_sliding_window=True, sliding_window=6, max_window_layers=2),
    "qwen3": {},
    "qwen3_moe": EXPERTS,
}


def teacher_config(family: str = "llama", **changes: Any) -> PreTrainedConfig:
    return AutoConfig.for_model(family, **{**COMMON, **FAMILIES.get(family, {}), **changes})


def perturb(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Adds noise to all parameters, in the order of their names, and sets evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model.eval()


def student_config(family: str = "llama", linear: tuple[int, ...] = (0, 2), **changes: Any) -> HybridGDNConfig:
    own = {"first_token_value": True} | {name: changes.pop(name) for name in MIXER_FIELDS if name in changes}
    config = HybridGDNConfig(text_config=teacher_config(family, **changes), **own)
    config.layer_types = ["linear_attention" if i in linear else t for i, t in enumerate(config.layer_types)]
    return config


def student(family: str = "llama", linear: tuple[int, ...] = (0, 2), **changes: Any) -> HybridGDNForCausalLM:
    torch.manual_seed(0)
    return perturb(HybridGDNForCausalLM(student_config(family, linear, **changes)))


def token_ids(*shape: int, seed: int = 1) -> torch.Tensor:
    """Random ids without the pad token."""
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def logits_in_chunks(forward: Any, ids: torch.Tensor, mask: torch.Tensor, chunk: int) -> torch.Tensor:
    """What a model's forward gives for `[B, T]`, so many tokens at a time, one cache for all."""
    cache, positions, parts = DynamicCache(), (mask.cumsum(1) - 1).clamp(min=0), []
    for end in range(chunk, ids.shape[1] + 1, chunk):
        new = slice(end - chunk, end)
        given = {"attention_mask": mask[:, :end], "position_ids": positions[:, new], **cache_argument(cache)}
        parts.append(forward(ids[:, new], **given).logits)
    return torch.cat(parts, dim=1)


def pad_rows(rows: list[torch.Tensor], left: list[int], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask `[B, length]`; `left[i]` pad tokens before row i, the rest after it."""
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for i, (row, offset) in enumerate(zip(rows, left, strict=True)):
        ids[i, offset : offset + len(row)], mask[i, offset : offset + len(row)] = row, 1
    return ids, mask


def packed_row(documents: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Documents in one row, told apart by positions that restart."""
    positions = torch.cat([torch.arange(len(document), device=document.device) for document in documents])
    return {"input_ids": torch.cat(documents)[None], "position_ids": positions[None]}
