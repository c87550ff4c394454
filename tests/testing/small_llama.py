# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A random Llama of two layers with tied embeddings."""

from planted import tiny_teacher
from transformers import PreTrainedModel


def small_llama() -> PreTrainedModel:
    return tiny_teacher("llama", num_hidden_layers=2, tie_word_embeddings=True)
