# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The configuration of a student as that of Transformers' `Qwen3_5ForCausalLM`."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from hf_tc.export.checks import attention_interval
from hf_tc.modeling.configuration_hybrid_gdn import HybridGDNConfig
from hf_tc.modeling.teacher_attention import head_dim_of

# Settings that mean the same in both.
SAME = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache"),
    *("tie_word_embeddings", "attention_dropout", "pad_token_id", "bos_token_id", "eos_token_id"),
)
ROTATED = 1.0  # share of a head's channels


def exported_config(config: HybridGDNConfig) -> PreTrainedConfig:
    """The configuration of the checkpoint that a student becomes, which `check_exportable` accepts."""
    teacher = config.teacher_config
    heads, interval = teacher.num_attention_heads, attention_interval(config)
    exported = AutoConfig.for_model(
        "qwen3_5_text",
        **{name: getattr(teacher, name) for name in SAME},
        head_dim=head_dim_of(teacher),
        attention_bias=teacher.model_type == "qwen2" or bool(getattr(teacher, "attention_bias", False)),
        layer_types=list(config.layer_types or []),
        linear_conv_kernel_dim=max(config.conv_kernel_size, 2),
        linear_key_head_dim=head_dim_of(teacher),
        linear_value_head_dim=head_dim_of(teacher),
        linear_num_key_heads=heads,
        linear_num_value_heads=heads,
        rope_parameters=_rope(teacher, head_dim_of(teacher)),
        partial_rotary_factor=ROTATED,
        **({} if interval is None else {"full_attention_interval": interval}),
    )
    exported.partial_rotary_factor = (
        ROTATED  # in the file too: without it 5.15 takes a quarter, whatever the others say
    )
    exported.architectures = ["Qwen3_5ForCausalLM"]
    exported.dtype = config.dtype
    return exported


def nested(exported: dict[str, Any]) -> dict[str, Any]:
    """A configuration as a dictionary, as the text part of a model that could also see: the form that MLX reads."""
    outer = ("dtype", "transformers_version", "tie_word_embeddings", "eos_token_id", "bos_token_id", "pad_token_id")
    return {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        **{name: exported[name] for name in outer if name in exported},
        "text_config": {name: value for name, value in exported.items() if name != "architectures"},
    }


def _rope(teacher: PreTrainedConfig, head_dim: int) -> dict[str, Any]:
    """The teacher's rotation of all channels. The three sections, of time, height and width in an image, are the same
    for text; engines want them to be of about one size and half a head together."""
    pairs = head_dim // 2
    sections = [(pairs + 2 - part) // 3 for part in range(3)]
    return {
        **teacher.rope_parameters,
        "partial_rotary_factor": ROTATED,
        "mrope_section": sections,
        "mrope_interleaved": True,
    }
