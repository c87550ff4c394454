# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How many positions models have, and that a conversion or an evaluation of longer sequences is refused at once."""

from pathlib import Path
from typing import Any

import pytest
from conversion_inputs import letter_teacher, text_file
from student_folders import letter_tokenizer
from tiny_causal_lms import tiny_qwen3
from transformers import CohereConfig, PreTrainedConfig

from hf_tc import HybridGDNForCausalLM, evaluate, plan_conversion, select_layers
from hf_tc.teachers.positions import check_fits, most_positions


@pytest.mark.parametrize(
    ("scaling", "most"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}, 256),
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, 256),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, 128),
        ({"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 64, "rope_theta": 1e4}, 64),
        ({"rope_type": "default", "rope_theta": 1e4}, 64),
    ],
)
def test_scaled_positions_count(scaling: dict[str, Any], most: int) -> None:
    model = tiny_qwen3(max_position_embeddings=64)
    model.config.rope_parameters = scaling
    assert most_positions(model) == most_positions(model.config) == most
    check_fits({"teacher": model, "student": None}, most)
    with pytest.raises(ValueError, match=rf"is {most + 1}, and the teacher has {most} positions .* to {most} or less"):
        check_fits({"teacher": model, "student": None}, most + 1)


def test_positions_that_a_configuration_calls_otherwise_or_does_not_know() -> None:
    assert most_positions(CohereConfig(max_position_embeddings=64, model_max_length=96)) == 96
    assert most_positions(PreTrainedConfig()) is None
    check_fits({"teacher": PreTrainedConfig()}, 10**9)


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


def test_longer_sequences_than_a_model_has_positions_for_are_not_evaluated(tmp_path: Path) -> None:
    model, text = letter_teacher(max_position_embeddings=31), text_file(tmp_path / "text.txt")
    for models, role in (((model, letter_teacher()), "model"), ((letter_teacher(), model), "teacher")):
        with pytest.raises(ValueError, match=f"sequence_length is 32, and the {role} has 31 positions"):
            evaluate(models[0], letter_tokenizer(), text, models[1], sequence_length=32)
    assert evaluate(model, letter_tokenizer(), text, sequence_length=31).perplexity > 1
