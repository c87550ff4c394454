# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Sizes of the tiny models of the tests."""

VOCABULARY = 61
HEADS, HEAD_DIM = 4, 8
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# For families that have no such field: theirs is hidden_size / num_attention_heads, which is the same.
SIZES_WITHOUT_HEAD_DIM = {name: size for name, size in SIZES.items() if name != "head_dim"}
