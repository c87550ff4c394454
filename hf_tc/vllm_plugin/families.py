# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which students vLLM can serve: a table of their teachers' families, and the forms of the mixer.

A family is in the table if vLLM has a model class of its own for it whose decoder layers call `self_attn(positions=...,
hidden_states=...)`, with one projection to q, k and v, and if a student of it was served with `generate`'s tokens
(`tests/serving`).
"""

from typing import Any, NamedTuple

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hf_tc.modeling.teacher_attention import head_dim_of

SERVED_FAMILIES = (
    "ernie4_5",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4",
    "granite",
    "hyperclovax",
    "llama",
    "mistral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
)


class MixerForm(NamedTuple):
    """What the configuration says of all recurrent layers."""

    kernel_size: int  # of the convolution
    activation: str | None  # after the convolution
    rotates: bool
    has_biases: bool
    has_query_key_norms: bool
    output_norm_eps: float | None  # None without that norm
    has_first_token_value: bool


def mixer_form(config: Any) -> MixerForm:
    """Of a student's configuration."""
    return MixerForm(
        config.conv_kernel_size,
        config.conv_activation,
        config.recurrent_rope,
        config.recurrent_bias,
        config.recurrent_qk_norm,
        config.output_norm_eps if config.output_norm else None,
        config.first_token_value,
    )


def head_counts(config: Any) -> tuple[int, int, int]:
    """(query heads, K/V heads, head dimension) of all layers, from a student's configuration."""
    text = config.text_config
    heads = text.num_attention_heads
    return heads, getattr(text, "num_key_value_heads", None) or heads, head_dim_of(text)


def student_architecture(teacher_architecture: str) -> str:
    """What a student of teachers of this class is called in vLLM, such as HybridGDNQwen3ForCausalLM."""
    return f"HybridGDN{teacher_architecture}"


def served_architectures() -> dict[str, str]:
    """The teacher's class for each of vLLM's names for students."""
    teachers = (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family] for family in SERVED_FAMILIES)
    return {student_architecture(teacher): teacher for teacher in teachers}


def why_not_served(config: Any) -> str | None:
    """One line on what of a student's configuration vLLM cannot serve; None where it can."""
    family, form = config.text_config.model_type, mixer_form(config)
    if family not in SERVED_FAMILIES:
        return (
            f"vLLM serves students of {', '.join(SERVED_FAMILIES)}; this student's teacher is of {family!r}. Serve it "
            "by Transformers: hf-tc serve."
        )
    if form.kernel_size < 2 or form.activation not in (None, "silu"):
        return (
            f"conv_kernel_size is {form.kernel_size} and conv_activation {form.activation!r}; vLLM serves convolutions "
            "of 2 or more, followed by nothing or 'silu'. Serve the student by Transformers: hf-tc serve."
        )
    return None
