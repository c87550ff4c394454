# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tiny random teachers and students, and examples for them."""

from __future__ import annotations

from typing import Any

import torch
from tiny_sizes import SIZES, VOCABULARY
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM


def tiny_config(config_class: Any, **changes: Any) -> Any:
    return config_class(**{**SIZES, "num_hidden_layers": 2, "initializer_range": 0.2, **changes})


def tiny_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(tiny_config(LlamaConfig, **changes))


def tiny_qwen3(seed: int = 1, **changes: Any) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(tiny_config(Qwen3Config, **{"hidden_size": 48, **changes}))


def labelled_examples(count: int, seed: int = 0, length: int = 12) -> list[dict[str, torch.Tensor]]:
    """Examples of one length with a different number of labelled tokens each (from 1 up)."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(count):
        input_ids = torch.randint(3, VOCABULARY, (length,), generator=generator)
        labels = input_ids.clone()
        labels[: length - 1 - index % (length - 2)] = -100
        examples.append({"input_ids": input_ids, "labels": labels})
    return examples
