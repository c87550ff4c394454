# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tiny students for the library's pipeline tests, which take their models from the Hub or from such a folder."""

import json
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from hf_tc.assets import tiny_teacher_path
from hf_tc.modeling import (
    HybridGDNConfig,
    HybridGDNForCausalLM,
    HybridGDNForSequenceClassification,
    HybridGDNForTokenClassification,
    HybridGDNModel,
)

CLASSES = (
    HybridGDNModel,
    HybridGDNForCausalLM,
    HybridGDNForSequenceClassification,
    HybridGDNForTokenClassification,
)


def save_pipeline_models(folder: Path) -> None:
    """Saves a student of each class and the summary that names them, laid out as the library's own script does."""
    # Students take any length, as Llama does; the generation test knows such models by their class or by this number.
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_path(), model_max_length=10_000)
    text_config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = HybridGDNConfig(text_config=text_config, layer_types=["linear_attention", "full_attention"])
    for model_class in CLASSES:
        target = folder / config.model_type / model_class.__name__
        model_class(config).save_pretrained(target)
        tokenizer.save_pretrained(target)
    entry = {"tokenizer_classes": ["PreTrainedTokenizerFast"], "processor_classes": []}
    (folder / "reports").mkdir()
    summary = json.dumps({model_class.__name__: entry for model_class in CLASSES})
    (folder / "reports" / "tiny_model_summary.json").write_text(summary)
