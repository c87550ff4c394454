# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Weight decay reaches projections, and nothing that decides how much a recurrent layer forgets."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from distillation_runs import config
from family_checks import exists, family_config
from fresh_processes import run_code
from peft import LoraConfig, get_peft_model
from tiny_causal_lms import labelled_examples, tiny_config, tiny_qwen3
from transformers import AutoModelForCausalLM, OlmoHybridConfig, Trainer, TrainingArguments

from hf_tc.distillation import DistillationTrainer
from hf_tc.distillation.weight_decay import UndecayedMemoryMixin
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.teachers.families import REVIEWED_FAMILIES
from hf_tc.teachers.new_student import build_student

SPARED_MATRICES = ("short_conv", "a_proj", "b_proj", "g_proj")
FIELDS = {"output_norm": True, "first_token_value": True}


class PlainTrainer(UndecayedMemoryMixin, Trainer):
    pass


def student() -> HybridGDNForCausalLM:
    return build_student(tiny_qwen3(), ["linear_attention", "full_attention"], config_kwargs=FIELDS)


def decayed(model: torch.nn.Module, folder: Path) -> set[str]:
    """Parameters in the groups of the optimizer that decay."""
    trainer = PlainTrainer(model, TrainingArguments(str(folder), use_cpu=True, weight_decay=0.1, report_to="none"))
    groups = trainer.create_optimizer().param_groups
    inside = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in inside}


def test_plain_trainer_spares_students_and_treats_other_models_as_before(tmp_path: Path) -> None:
    names = {}
    for kind, model in {"student": student(), "other": tiny_qwen3()}.items():
        trainer = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, weight_decay=0.1, report_to="none"))
        names[kind] = set(trainer.get_decay_parameter_names(model))
        assert names[kind] <= set(Trainer.get_decay_parameter_names.__wrapped__(trainer, model))
        if kind == "other":
            assert names[kind] == set(Trainer.get_decay_parameter_names.__wrapped__(trainer, model))
    mixer = "model.layers.0.self_attn."
    spared = ("A_log", "dt_bias", "first_token_weight", *(f"{name}.weight" for name in SPARED_MATRICES))
    assert not names["student"] & {mixer + name for name in spared}
    assert mixer + "o_proj.weight" in names["student"]


@pytest.mark.parametrize(
    "order", ["import hf_tc; from transformers import Trainer", "from transformers import Trainer; import hf_tc"]
)
def test_trainer_is_told_in_whatever_order_things_are_imported(order: str) -> None:
    code = f"{order}; import hf_tc.hub.registration as r; r.register(); "
    code += "print(hasattr(Trainer.get_decay_parameter_names, '__wrapped__'))"
    code += "; print(hasattr(Trainer.get_decay_parameter_names.__wrapped__, '__wrapped__'))"
    assert run_code(code).stdout.split() == ["True", "False"]


def test_what_decays_is_every_matrix_but_the_convolution_and_the_gates(tmp_path: Path) -> None:
    model = student()
    mixer = "model.layers.0.self_attn."
    matrices = {name for name, parameter in model.named_parameters() if parameter.dim() == 2}
    spared = {mixer + f"{name}.weight" for name in SPARED_MATRICES}
    assert spared < matrices
    assert {mixer + name for name in ("A_log", "dt_bias", "o_norm.weight")} <= dict(model.named_parameters()).keys()
    assert decayed(model, tmp_path) == matrices - spared


def test_an_adapter_s_copy_of_the_convolution_does_not_decay(tmp_path: Path) -> None:
    adapted = get_peft_model(student(), LoraConfig(target_modules=["q_proj"], modules_to_save=["short_conv"]))
    names = decayed(adapted, tmp_path)
    assert names
    assert all("lora_" in name for name in names)


def test_students_of_the_library_keep_their_half_lives_too(tmp_path: Path) -> None:
    kinds = ["linear_attention", "full_attention"]
    sizes = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    }
    model = AutoModelForCausalLM.from_config(tiny_config(OlmoHybridConfig, layer_types=kinds, **sizes))
    names = decayed(model, tmp_path)
    recurrent = {name for name, _ in model.named_parameters() if "A_log" in name or "conv1d" in name}
    assert len(recurrent) >= 2
    assert not recurrent & names
    assert "model.layers.0.mlp.up_proj.weight" in names


@pytest.mark.parametrize("family", [family for family in REVIEWED_FAMILIES if exists(family)])
def test_no_norm_or_bias_of_any_family_decays(family: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(family_config(family))
    names = PlainTrainer.get_decay_parameter_names(PlainTrainer.__new__(PlainTrainer), model)
    assert names
    assert not [name for name in names if "norm" in name or "bias" in name]


def test_a_step_without_gradient_shrinks_the_projections_alone(tmp_path: Path) -> None:
    model = student()
    before = copy.deepcopy(model.state_dict())
    settings = config(tmp_path, weight_decay=0.1, optim="sgd", lr_scheduler_type="constant", max_steps=1)
    DistillationTrainer(model, copy.deepcopy(model), settings, train_dataset=labelled_examples(8)).train()
    mixer, after = "model.layers.0.self_attn.", model.state_dict()
    for name in (
        "A_log",
        "dt_bias",
        "short_conv.weight",
        "o_norm.weight",
        "b_proj.bias",
        "q_norm.weight",
        "a_proj.weight",
    ):
        torch.testing.assert_close(after[mixer + name], before[mixer + name], rtol=0, atol=1e-7)
    shrunk = before[mixer + "o_proj.weight"] * (1 - 0.01 * 0.1)  # learning rate times decay
    torch.testing.assert_close(after[mixer + "o_proj.weight"], shrunk, rtol=1e-5, atol=1e-7)
