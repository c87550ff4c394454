# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A random Llama of two layers with tied embeddings, and sizes for other families."""

from transformers import LlamaConfig, LlamaForCausalLM

from hf_tc.family_parity import random_teacher

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def small_llama() -> LlamaForCausalLM:
    return random_teacher(LlamaConfig(**SMALL, tie_word_embeddings=True))
