# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_tc.distillation import DistillationConfig, config_checks
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
        ({"learning_rate": float("nan")}, r"learning_rate is nan; it must be a number of 0 or more\. By default"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001; it must be a number of 0 or more"),
        ({"learning_rate": "3e-4"}, r"learning_rate is '3e-4', which is text; .* in YAML write 1\.0e-3 and"),
        ({"gate_learning_rate": "1e-3"}, "gate_learning_rate is '1e-3', which is text; it must be a number"),
        ({"logging_steps": "5"}, "logging_steps is '5', which is text"),
        ({"tokens": "2e7"}, "tokens is '2e7', which is text"),
        ({"sequence_length": "512"}, "sequence_length is '512', which is text"),
        ({"weight_decay": -0.1}, r"weight_decay is -0.1; it must be a number of 0 or more\. Use 0 for none"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm is nan"),
        ({"adam_beta2": 1.0}, "adam_beta2 is 1.0; it must be at least 0 and below 1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; it must be a whole number of at least"),
        ({"jsd_beta": 0.3}, "jsd_beta is 0.3, which has no effect: divergence is 'forward_kl'"),
        ({"ce_weight": 1.0, "temperature": 2.0}, "temperature is 2.0, which has no effect: ce_weight is 1"),
        ({"ce_weight": 1.0, "divergence": "reverse_kl"}, "divergence is 'reverse_kl', which has no effect"),
        (
            {"distribution_weight": 0.0, "layer_weight": 1.0, "ce_weight": 0.2},
            "ce_weight is 0.2, which has no effect: distribution_weight is 0",
        ),
        ({"report_to": "foo"}, "report_to has 'foo'; it must be one of none, all, azure_ml"),
        ({"report_to": ["none", "foo"]}, "report_to has 'none'"),
        (
            {"teacher_device_map": "cuda:99"},
            r"teacher_device_map is 'cuda:99', and this machine has \d+ GPUs?: it must",
        ),
        ({"teacher_device_map": {"": "cuda:99"}}, "teacher_device_map is 'cuda:99'"),
        ({"teacher_device_map": "somewhere"}, "teacher_device_map is 'somewhere'"),
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


@pytest.mark.parametrize(
    "arguments",
    [
        {"jsd_beta": 0.5, "temperature": 1.0},
        {"jsd_beta": 0.3, "divergence": "jsd", "temperature": 2.0, "ce_weight": 0.5},
        {"ce_weight": 1.0},
        {"distribution_weight": 0.0, "layer_weight": 1.0, "jsd_beta": 0.5},
        {"max_grad_norm": None, "learning_rate": 0, "weight_decay": 0.0},
        {"max_grad_norm": float("inf")},
        {"report_to": ["none"]},
        {"report_to": "all"},
        *({"teacher_device_map": value} for value in ("cpu", "auto", {"model": "cpu", "lm_head": "disk"})),
    ],
)
def test_defaults_and_what_has_an_effect_are_taken(tmp_path: Path, arguments: dict[str, Any]) -> None:
    DistillationConfig(output_dir=str(tmp_path), use_cpu=True, **arguments)


@pytest.mark.parametrize(
    ("arguments", "package"),
    [
        ({"report_to": "wandb"}, "wandb"),
        ({"report_to": ["flyte"]}, "flytekit"),
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"optim": "galore_adamw"}, "galore-torch"),
        ({"optim": "adamw_torch_8bit"}, "torchao"),
        ({"optim": "lion_32bit"}, "bitsandbytes"),
        ({"teacher_in_8bit": True}, "bitsandbytes"),
        ({"trains": "lora"}, "peft"),
    ],
)
def test_packages_that_are_not_installed_are_named(
    tmp_path: Path, arguments: dict[str, Any], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_checks, "find_spec", lambda module: None)
    monkeypatch.setattr(config_checks, "get_available_reporting_integrations", lambda: ["tensorboard"])
    DistillationConfig(output_dir=str(tmp_path), use_cpu=True, report_to="tensorboard")
    with pytest.raises(ImportError, match=f"pip install {package}"):
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
