# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Whether a student can become a checkpoint of Qwen3.5's architecture, from its configuration alone.

What every format needs comes first, then what one of them needs beside it.
"""

from collections.abc import Iterator
from typing import Any

import torch

from hf_tc.config import MixerConfig
from hf_tc.export import FORMATS
from hf_tc.modeling.configuration_hybrid_gdn import HybridGDNConfig

FAMILIES = ("llama", "qwen2", "qwen3")
# Kinds of rotary embedding that the engines of a format compute as Transformers does; all of them where none is named.
ROPE_TYPES = {"mlx": ("default", "linear", "llama3"), "gguf": ("default",)}


def check_exportable(config: HybridGDNConfig, format: str = "qwen3_5") -> None:
    """Raises `ValueError` for a student that cannot be exported in a format of FORMATS, with all reasons in a line."""
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}.")
    reasons = list(_reasons(config))
    if not reasons and format in ROPE_TYPES:
        reasons = list(_reasons_of_engine(config, format))
    if reasons:
        raise ValueError(f"This student cannot be exported as {format}: {' '.join(reasons)}")


def attention_interval(config: HybridGDNConfig) -> int | None:
    """n where every n-th layer keeps attention, counted from 1, and no other; None for any other layout."""
    retained = config.retained_layers
    if not retained:
        return None
    interval = retained[0] + 1
    expected = tuple(range(interval - 1, config.num_hidden_layers, interval))
    return interval if retained == expected else None


def _reasons(config: HybridGDNConfig) -> Iterator[str]:
    teacher = config.teacher_config
    if teacher.model_type not in FAMILIES:
        yield f"its teacher is of the family {teacher.model_type}; layers of {', '.join(FAMILIES)} can be mapped."
        return
    if not config.retained_layers:
        yield "none of its layers keeps attention; that architecture has at least one. Retain one (--retained-layers)."
    if config.linear_layers:
        wanted = MixerConfig("qwen3_5", conv_kernel_size=config.conv_kernel_size or 4).fields(teacher)
        found = {name: getattr(config, name) for name in wanted}
        other = ", ".join(f"{name} {found[name]!r}" for name in wanted if found[name] != wanted[name])
        if other:
            yield f"its recurrent layers have {other}. Convert the teacher with --mixer-form qwen3_5."
    sliding = [i for i in config.retained_layers if (config.layer_types or [])[i] == "sliding_attention"]
    if sliding:
        yield (
            f"layers {sliding} attend within a sliding window, which that architecture has not. Retain others "
            "(--retained-layers)."
        )
    rotationless = sorted({*(config.nope_layers or ())} & {*config.retained_layers})
    if rotationless:
        yield f"layers {rotationless} attend without positions. Retain others (--retained-layers)."
    if teacher.model_type != "qwen3" and config.retained_layers and config.dtype in (torch.float16, "float16"):
        yield "its teacher has no norms of q and k, and what stands for that underflows in float16. Use bfloat16."
    if teacher.hidden_act != "silu":
        yield f"its teacher's MLP has the activation {teacher.hidden_act!r}, not 'silu'."
    if getattr(teacher, "mlp_bias", False):
        yield "its teacher's MLP has biases (mlp_bias)."


def _reasons_of_engine(config: HybridGDNConfig, format: str) -> Iterator[str]:
    teacher: Any = config.teacher_config
    kind = (teacher.rope_parameters or {}).get("rope_type", "default")
    if kind not in ROPE_TYPES[format]:
        yield f"its RoPE is of type {kind!r}; there it is {' or '.join(ROPE_TYPES[format])}. Use --format qwen3_5."
    if format == "mlx" and attention_interval(config) is None:
        layers = ",".join(str(i) for i in range(3, config.num_hidden_layers, 4))
        yield (
            f"layers {list(config.retained_layers)} keep attention; MLX wants every n-th one. Convert with such as "
            f"--retained-layers {layers}."
        )
    if format == "gguf" and teacher.model_type != "qwen2" and getattr(teacher, "attention_bias", False):
        yield "its attention's output projection has a bias, which llama.cpp does not read. Use --format qwen3_5."
