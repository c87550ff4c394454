# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tells the common tests how to make a tiny student and its inputs."""

from typing import Any

import torch
from transformers import AutoConfig
from transformers.testing_utils import torch_device

from hf_tc.modeling import (
    HybridGDNConfig,
    HybridGDNForCausalLM,
    HybridGDNForQuestionAnswering,
    HybridGDNForSequenceClassification,
    HybridGDNForTokenClassification,
    HybridGDNModel,
)

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3_moe": dict(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, decoder_sparse_step=1, norm_topk_prob=True
    ),
}


class StudentClasses:
    """What the common tests ask of a tester, for one family."""

    family: str
    config_class = HybridGDNConfig
    base_model_class = HybridGDNModel
    causal_lm_class = HybridGDNForCausalLM
    question_answering_class = HybridGDNForQuestionAnswering
    sequence_classification_class = HybridGDNForSequenceClassification
    token_classification_class = HybridGDNForTokenClassification

    def get_config(self) -> HybridGDNConfig:
        """Two layers, the first one recurrent."""
        text_config = AutoConfig.for_model(
            self.family,
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.hidden_size // self.num_attention_heads,
            max_position_embeddings=self.max_position_embeddings,
            pad_token_id=self.pad_token_id,
            bos_token_id=self.bos_token_id,
            eos_token_id=self.eos_token_id,
            **FAMILIES[self.family],
        )
        config = HybridGDNConfig(text_config=text_config)
        config.layer_types = ["linear_attention", *config.layer_types[1:]]
        return config


class StudentTester(StudentClasses):
    """Sizes and inputs as the library's tester for causal language models has them."""

    batch_size, seq_length = 13, 7
    vocab_size, hidden_size, intermediate_size = 99, 32, 37
    num_hidden_layers, num_attention_heads, num_key_value_heads = 2, 4, 2
    max_position_embeddings = 512
    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2
    num_labels, type_sequence_label_size = 3, 2
    is_training = True

    def __init__(self, parent: Any) -> None:
        self.parent = parent

    @property
    def all_model_classes(self) -> tuple[type, ...]:
        return (
            self.base_model_class,
            self.causal_lm_class,
            self.question_answering_class,
            self.sequence_classification_class,
            self.token_classification_class,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[HybridGDNConfig, dict[str, torch.Tensor]]:
        shape = (self.batch_size, self.seq_length)
        ids = torch.randint(0, self.vocab_size, shape, device=torch_device)
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
