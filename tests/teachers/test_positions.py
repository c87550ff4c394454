# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How many positions models have, and that a conversion or an evaluation of longer sequences is refused at once."""

import logging
from pathlib import Path
from typing import Any

import pytest
from conversion_inputs import letter_teacher, text_file
from student_folders import VOCABULARY, letter_tokenizer
from tiny_causal_lms import tiny_qwen3
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from hf_tc import HybridGDNForCausalLM, evaluate, plan_conversion, select_layers
from hf_tc.teachers.positions import check_fits, most_positions

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("scaling", "most"),
    [
        (YARN, 256),
        ({**YARN, "factor": 0.5}, 64),
        ({"rope_type": "linear", "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "factor": 2.0}, 128),
        ({"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 16}, 64),
        ({"full_attention": YARN, "sliding_attention": PLAIN}, 256),
        (PLAIN, 64),
    ],
)
def test_scaled_positions_count(scaling: dict[str, Any], most: int) -> None:
    model = tiny_qwen3(max_position_embeddings=64)
    model.config.rope_parameters = scaling
    assert most_positions(model) == most_positions(model.config) == most
    check_fits({"teacher": model, "student": None}, most)
    with pytest.raises(ValueError, match=rf"is {most + 1}, and the teacher has {most} positions: .* to {most} or less"):
        check_fits({"teacher": model, "student": None}, most + 1)


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (AutoConfig.for_model("cohere", max_position_embeddings=64, model_max_length=96), 96),
        (AutoConfig.for_model("cohere", max_position_embeddings=64, model_max_length=1e30), 64),
        (AutoConfig.for_model("gpt2", n_positions=48), 48),
        (AutoConfig.for_model("xlnet"), None),  # -1 there
        (AutoConfig.for_model("falcon", alibi=True), None),
        (AutoConfig.for_model("rwkv"), None),
        (PreTrainedConfig(), None),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_other_names_and_what_is_no_limit(config: PreTrainedConfig, most: int | None) -> None:
    assert most_positions(config) == most
    check_fits({"teacher": config}, most or 10**9)


def test_longer_sequences_than_the_teacher_has_positions_for_are_refused_before_it_is_loaded(tmp_path: Path) -> None:
    teacher = letter_teacher(max_position_embeddings=31)
    teacher.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    told = "sequence_length is 32, and the teacher has 31 positions"
    for call in (HybridGDNForCausalLM.from_teacher, select_layers, plan_conversion):
        with pytest.raises(ValueError, match=told):
            call(tmp_path, calibration_tokens=256, sequence_length=32)
    with pytest.raises(ValueError, match=told):
        HybridGDNForCausalLM.from_teacher(teacher, letter_tokenizer(), sequence_length=32)


def test_longer_texts_than_a_model_was_made_for_are_measured_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, text = letter_teacher(max_position_embeddings=31), text_file(tmp_path / "text.txt")
    for length, warnings in ((31, 0), (32, 1)):
        with caplog.at_level(logging.WARNING):
            assert evaluate(letter_teacher(), letter_tokenizer(), text, model, sequence_length=length).perplexity > 1
        assert caplog.text.count("is 32, and the teacher has 31 positions: its figures are of longer") == warnings


def test_longer_texts_than_a_table_of_positions_are_refused(tmp_path: Path) -> None:
    size = {"vocab_size": len(VOCABULARY) + 1, "n_embd": 32, "n_layer": 1, "n_head": 4, "bos_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_positions=31, eos_token_id=None, **size))
    text = text_file(tmp_path / "text.txt")
    with pytest.raises(ValueError, match="sequence_length is 32, and the model has 31 positions"):
        evaluate(model, letter_tokenizer(), text, sequence_length=32)
    assert evaluate(model, letter_tokenizer(), text, sequence_length=31).perplexity > 1
