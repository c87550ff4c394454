# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Models of real shapes with random weights, for measuring speed and memory: teacher, student, and the library's own
Gated DeltaNet model at equal dimensions."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM

from .bench import clock

SHAPES: dict[str, dict[str, Any]] = {
    "135m": dict(  # SmolLM2-135M
        model_type="llama", hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, vocab_size=49_152, tie_word_embeddings=True,
    ),
    "8b": dict(  # Qwen3-8B
        model_type="qwen3", hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, vocab_size=151_936, tie_word_embeddings=False,
    ),
    "tiny": dict(
        model_type="llama", hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=256, tie_word_embeddings=True,
    ),
}  # fmt: skip
RETAINED = {"135m": (0, 1, 13, 16, 18, 19, 25, 27), "8b": tuple(range(0, 36, 4)), "tiny": (0,)}


def teacher_config(shape: str, longest: int) -> PreTrainedConfig:
    fields = dict(SHAPES[shape])
    return AutoConfig.for_model(fields.pop("model_type"), **fields, max_position_embeddings=longest)


def teacher(shape: str, longest: int) -> Callable[[], PreTrainedModel]:
    return lambda: AutoModelForCausalLM.from_config(teacher_config(shape, longest))


def student(shape: str, longest: int) -> Callable[[], PreTrainedModel]:
    """With the shape's share of layers retained."""
    config = teacher_config(shape, longest)
    kinds = ["full_attention" if i in RETAINED[shape] else "linear_attention" for i in range(config.num_hidden_layers)]
    return lambda: HybridGDNForCausalLM(HybridGDNConfig(text_config=copy.deepcopy(config), layer_types=kinds))


def library_hybrid(shape: str, longest: int) -> Callable[[], PreTrainedModel]:
    """Qwen3.5's text model with the student's widths, heads and layer types."""
    config, heads = teacher_config(shape, longest), SHAPES[shape]["num_attention_heads"]
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    same += ("head_dim", "vocab_size", "tie_word_embeddings", "max_position_embeddings")
    kinds = ["full_attention" if i in RETAINED[shape] else "linear_attention" for i in range(config.num_hidden_layers)]
    own = AutoConfig.for_model(
        "qwen3_5_text", **{name: getattr(config, name) for name in same}, layer_types=kinds,
        linear_num_key_heads=heads, linear_num_value_heads=heads, linear_key_head_dim=config.head_dim,
        linear_value_head_dim=config.head_dim,
    )  # fmt: skip
    return lambda: AutoModelForCausalLM.from_config(own)


def built(build: Callable[[], PreTrainedModel], device: str, dtype: torch.dtype) -> PreTrainedModel:
    """On the device at once: no copy in host memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return build().eval()
    finally:
        torch.set_default_dtype(before)


def seconds_of(call: Callable[[], Any], warm: int, times: int) -> float:
    """Mean seconds of a call, the device's work included, after some that are not counted."""
    for _ in range(warm):
        call()
    start = clock()
    for _ in range(times):
        call()
    return (clock() - start) / times


def peak_gb(call: Callable[[], Any]) -> float:
    """Most memory allocated during a call, GB; 0 without a GPU."""
    if not torch.cuda.is_available():
        call()
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 1e9
