# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The load-balancing loss of students with experts: the figures of plain `Trainer`, in every family that has one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from distillation_runs import config, logged
from family_checks import exists, family_config
from tiny_causal_lms import labelled_examples, tiny_config
from transformers import MixtralConfig, MixtralForCausalLM, Trainer

from hf_tc.distillation import DistillationTrainer
from hf_tc.evaluation.lm_head import BackboneThenHead
from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM
from hf_tc.teachers.families import EXPERTS, REVIEWED_FAMILIES
from hf_tc.teachers.new_student import build_student
from hf_tc.teachers.small_teacher import random_teacher

COEFFICIENT = 10.0  # what is left out cannot be missed
WITH_EXPERTS = [family for family, text in REVIEWED_FAMILIES.items() if EXPERTS in text]
WITHOUT_LOSS = {"afmoe", "aria_text", "beam", "cohere2_moe", "dots1", "exaone_moe", "glm4_moe", "hunyuan_v1_moe"}
WITHOUT_LOSS |= {"hy_v3", "kolibri1", "sarvam_moe", "solar_open"}


@pytest.mark.parametrize("family", [family for family in WITH_EXPERTS if exists(family)])
def test_router_loss_is_the_difference_it_makes_to_the_family_s_own_loss(family: str) -> None:
    settings = family_config(family)
    settings.router_aux_loss_coef = COEFFICIENT
    if family == "granitemoehybrid":  # whose default is a dense model
        settings.num_local_experts, settings.num_experts_per_tok = 4, 2
    kinds = HybridGDNConfig(text_config=copy.deepcopy(settings)).teacher_layer_types
    student = build_student(random_teacher(settings), ["linear_attention", kinds[1]]).eval()
    parts, text_config = BackboneThenHead(student), student.config.text_config
    ids = torch.randint(3, settings.vocab_size, (2, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0  # padding chooses no expert
    batch = {"input_ids": ids, "attention_mask": mask}
    text_config.output_router_logits = True
    if isinstance(student(**batch).get("aux_loss"), int):  # this release fails to record router logits
        with pytest.raises(ValueError, match="records no router logits"):
            BackboneThenHead(student).hidden_states_and_router_loss(batch)
        return
    losses = []
    for text_config.output_router_logits in (False, True):
        losses.append(student(**batch, labels=ids).loss)
        hidden, router_loss = parts.hidden_states_and_router_loss(batch)
        assert torch.equal(hidden, parts.hidden_states(batch))
        torch.testing.assert_close(router_loss, losses[-1] - losses[0], rtol=1e-4, atol=1e-4)
    assert parts.is_split
    parts.is_split = False
    torch.testing.assert_close(parts.hidden_states_and_router_loss(batch), (student(**batch).logits, router_loss))
    assert (router_loss.item() > COEFFICIENT) == (family not in WITHOUT_LOSS)
    if family not in WITHOUT_LOSS:
        trained = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
        assert not trained
        router_loss.backward()
        trained = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
        assert any("gate" in name or "router" in name for name in trained)
        assert "lm_head.weight" not in trained


def student_and_teacher() -> tuple[HybridGDNForCausalLM, MixtralForCausalLM]:
    torch.manual_seed(0)
    experts = {"num_local_experts": 4, "output_router_logits": True, "router_aux_loss_coef": COEFFICIENT}
    teacher = MixtralForCausalLM(tiny_config(MixtralConfig, sliding_window=None, **experts))
    return build_student(teacher, ["linear_attention", "full_attention"]), teacher


def changes(**others: Any) -> dict[str, Any]:
    return {"max_steps": 2, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 3, **others}


@pytest.mark.parametrize("accumulated", [1, 2])
def test_cross_entropy_alone_gives_the_figures_of_trainer(tmp_path: Path, accumulated: int) -> None:
    student, teacher = student_and_teacher()
    examples = [{**example, "attention_mask": torch.ones(12)} for example in labelled_examples(8)]
    examples[1]["attention_mask"][:4] = 0
    arguments = config(tmp_path, **changes(ce_weight=1.0, gradient_accumulation_steps=accumulated))
    data = {"train_dataset": examples, "eval_dataset": examples[:7]}
    plain = Trainer(copy.deepcopy(student), arguments, **data)
    ours = DistillationTrainer(student, teacher, arguments, **data)
    for run in (plain, ours):
        run.train()
    for name in ("loss", "grad_norm"):
        assert logged(ours, name) == pytest.approx(logged(plain, name), rel=1e-4)
    assert logged(ours, "loss")[0] > COEFFICIENT


def test_evaluation_adds_the_mean_of_the_batches(tmp_path: Path) -> None:
    student, teacher = student_and_teacher()
    examples = labelled_examples(7)
    trainer = DistillationTrainer(student, teacher, config(tmp_path, **changes()), eval_dataset=examples)
    with_routers = trainer.evaluate()["eval_loss"]
    expected, parts = 0.0, BackboneThenHead(student)
    for rows in (examples[:3], examples[3:6], examples[6:]):
        ids = torch.stack([example["input_ids"] for example in rows])
        expected += parts.hidden_states_and_router_loss({"input_ids": ids})[1].item() * len(rows) / 7
    student.config.text_config.output_router_logits = False
    without = trainer.evaluate()
    assert without["eval_loss"] == pytest.approx(without["eval_kl"], rel=1e-6)
    assert expected > COEFFICIENT
    assert with_routers - without["eval_loss"] == pytest.approx(expected, rel=1e-5)
