# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_tc.distillation import DistillationConfig
from hf_tc.evaluation.kd_loss import Objective


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; it must be a number above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"ce_weight": 1.5}, r"ce_weight is 1.5; it must lie in \[0, 1\]"),
        ({"ce_weight": -0.1}, "ce_weight is -0.1"),
        ({"divergence": "kl"}, "divergence is 'kl'; it must be one of forward_kl, reverse_kl, jsd"),
        ({"jsd_beta": 1.0}, "jsd_beta is 1.0; it must lie between 0 and 1"),
        ({"chunk_tokens": 0}, "chunk_tokens is 0; it must be at least 1"),
        ({"layer_weight": -1.0}, "layer_weight is -1.0; it must be a number of 0 or more"),
        ({"repeated_passages": 1.5}, "repeated_passages is 1.5; it is a share of the sequences"),
        ({"repeated_passages": 0.2, "teacher_cache": "folder"}, "the predictions of teacher_cache are of its text"),
        ({"distribution_weight": float("inf")}, "distribution_weight is inf"),
        ({"distribution_weight": 0.0}, "layer_weight and distribution_weight are 0, which leaves no loss"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"),
        ({"torch_compile": True}, "torch_compile=True"),
        ({"bf16_full_eval": True}, "bf16_full_eval=True casts the student's weights"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationConfig(output_dir=str(tmp_path), use_cpu=True, **arguments)


def test_works_as_command_line_arguments(tmp_path: Path) -> None:
    parser = HfArgumentParser(DistillationConfig)
    (config,) = parser.parse_args_into_dataclasses(
        [
            *("--output_dir", str(tmp_path), "--use_cpu", "--temperature", "2", "--ce_weight", "0.1"),
            *("--divergence", "jsd"),
            *("--trains", "mixers", "--gate_learning_rate", "1e-3"),
        ]
    )
    assert config.objective == Objective(2.0, 0.1, "jsd")
    assert (config.trains, config.gate_learning_rate) == ("mixers", 1e-3)
    assert (config.temperature, config.ce_weight, config.chunk_tokens) == (2.0, 0.1, None)


def test_the_old_name_of_ce_weight_works_with_a_note(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="cross_entropy_share is now ce_weight"):
        config = DistillationConfig(output_dir=str(tmp_path), use_cpu=True, cross_entropy_share=0.3)
    assert config.ce_weight == 0.3
    assert replace(config).ce_weight == 0.3  # without another note


def test_own_arguments_have_help() -> None:
    inherited = {inherited.name for inherited in fields(TrainingArguments)}
    own = [field for field in fields(DistillationConfig) if field.name not in inherited]
    assert {field.name for field in own} == {
        *("temperature", "ce_weight", "divergence", "jsd_beta", "cross_entropy_share", "chunk_tokens"),
        *("trains", "gate_learning_rate", "teacher_cache", "layer_weight", "distribution_weight"),
        *("teacher_device_map", "teacher_in_8bit"),
        *("tokens", "sequence_length", "curriculum", "packing", "assistant_only_loss", "repeated_passages"),
    }
    assert all(len(field.metadata["help"]) > 40 for field in own)
