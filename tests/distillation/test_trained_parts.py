# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which weights move by each preset, at which rate, and that runs resume, save, load and push by all of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from distillation_runs import config, logged
from family_checks import family_config
from library_names import checkpointing_argument
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from tiny_causal_lms import labelled_examples, tiny_config, tiny_llama, tiny_qwen3
from torch import Tensor, nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from hf_tc.config import TRAINS
from hf_tc.distillation import DistillationTrainer
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.teachers.new_student import NEW_IN_MIXER, build_student
from hf_tc.teachers.small_teacher import random_teacher

RATE, GATE_RATE = 1e-2, 3e-2
MIXER, RETAINED = "model.layers.0.self_attn.", "model.layers.1.self_attn."
NORMS = {f"model.layers.{i}.{name}_layernorm.weight" for i in (0, 1) for name in ("input", "post_attention")}
NORMS |= {"model.norm.weight"}
UNDECAYED_GATES = ("A_log", "dt_bias", "a_proj", "b_proj", "g_proj", "short_conv", "o_norm")


def student() -> HybridGDNForCausalLM:
    return build_student(tiny_qwen3(), ["linear_attention", "full_attention"], config_kwargs={"output_norm": True})


def trainer_of(folder: Path, model: Any = None, **changes: Any) -> DistillationTrainer:
    arguments = config(folder, learning_rate=RATE, **changes)
    given = student() if model is None else model
    return DistillationTrainer(given, tiny_qwen3(2), arguments, train_dataset=labelled_examples(16))


def with_adapter_inside() -> nn.Module:
    return inject_adapter_in_model(LoraConfig(target_modules=["q_proj"]), student())


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("trains", [preset for preset in TRAINS if preset != "lora"])
def test_what_a_preset_names_moves_and_nothing_else(tmp_path: Path, trains: str) -> None:
    model = student()
    before = copy.deepcopy(model.state_dict())
    names = {
        "mixers": {name for name in before if name.startswith(MIXER)},
        "norms": NORMS,
        "attention": {name for name in before if name.startswith(RETAINED)},
    }
    assert all(len(group) >= 5 for group in names.values())
    trainer_of(tmp_path, model, trains=trains).train()
    expected = {
        "all": set(before),
        "mixers": names["mixers"],
        "mixers_and_norms": names["mixers"] | names["norms"],
        "attention_too": names["mixers"] | names["norms"] | names["attention"],
    }
    assert moved(before, model.state_dict()) == expected[trains]


def test_lora_moves_adapters_and_what_is_new(tmp_path: Path) -> None:
    model = student()
    plain = copy.deepcopy(model.state_dict())
    trainer = trainer_of(tmp_path, model, trains="lora")
    assert isinstance(trainer.model, PeftModel)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    names = moved(before, trainer.model.state_dict())
    assert {name for name in names if ".lora_" not in name and ".modules_to_save.default." not in name} == set()
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names if ".lora_" in name}
    assert adapted == {f"{x}_proj" for x in ("q", "k", "v", "o", "g", "gate", "up", "down")}
    whole = {name.split(".modules_to_save.")[0].rsplit(".", 1)[-1] for name in names if ".modules_to_save." in name}
    assert whole == {"a_proj", "b_proj", "short_conv", "o_norm"}
    merged = trainer.model.merge_and_unload()
    kept = plain.keys() - moved(plain, merged.state_dict())
    norms = {name for name in plain if "norm" in name and "o_norm" not in name}
    in_mixer = {MIXER + name for name in ("A_log", "dt_bias", "g_proj.bias")}
    assert kept == {"model.embed_tokens.weight", "lm_head.weight"} | norms | in_mixer


def test_an_adapter_begins_as_the_seed_says(tmp_path: Path) -> None:
    states = [trainer_of(tmp_path, trains="lora", seed=seed).model.state_dict() for seed in (3, 3, 4)]
    assert moved(states[0], states[1]) == set()
    assert all("lora_A" in name for name in moved(states[0], states[2]))
    assert moved(states[0], states[2])


@pytest.mark.parametrize("trains", TRAINS)
def test_new_parts_have_their_own_rate_and_decay_stays_where_it_was(tmp_path: Path, trains: str) -> None:
    together = trainer_of(tmp_path, trains=trains, weight_decay=0.1)
    apart = trainer_of(tmp_path, trains=trains, weight_decay=0.1, gate_learning_rate=GATE_RATE)
    settings = []
    for trainer in (together, apart):
        groups, names = trainer.create_optimizer().param_groups, dict(trainer.model.named_parameters())
        of = {id(weight): (group["lr"], group["weight_decay"]) for group in groups for weight in group["params"]}
        assert sum(len(group["params"]) for group in groups) == len(of)
        assert len(of) == sum(weight.requires_grad for weight in names.values())
        settings.append({name: of[id(weight)] for name, weight in names.items() if weight.requires_grad})
    assert {rate for rate, _ in settings[0].values()} == {RATE}
    assert {name: decay for name, (_, decay) in settings[0].items()} == {
        name: decay for name, (_, decay) in settings[1].items()
    }
    for name, (rate, decay) in settings[1].items():
        parts = name.split(".")
        is_new = "0" in parts and any(part in parts for part in NEW_IN_MIXER)
        assert rate == (GATE_RATE if is_new else RATE), name
        spared = any(part in parts for part in UNDECAYED_GATES) or "bias" in name or "norm" in name
        assert decay == (0.0 if spared else 0.1), name


def test_a_rate_of_0_keeps_what_is_new_and_both_follow_the_schedule(tmp_path: Path) -> None:
    model = student()
    before = copy.deepcopy(model.state_dict())
    trainer = trainer_of(tmp_path, model, trains="mixers", gate_learning_rate=0.0)
    trainer.train()
    names = moved(before, model.state_dict())
    assert names == {MIXER + f"{x}_proj.weight" for x in "qkvo"} | {MIXER + "q_norm.weight", MIXER + "k_norm.weight"}
    trainer = trainer_of(tmp_path, gate_learning_rate=GATE_RATE, max_steps=4)
    trainer.create_optimizer_and_scheduler(4)
    trainer.optimizer.step()
    trainer.lr_scheduler.step()  # linear: three quarters are left
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {RATE * 0.75, GATE_RATE * 0.75}


@pytest.mark.parametrize("trains", ["mixers", "lora"])
def test_a_run_resumes_to_the_same_weights(tmp_path: Path, trains: str) -> None:
    changes = {"trains": trains, "gate_learning_rate": GATE_RATE, "save_strategy": "steps", "save_steps": 2}
    whole = trainer_of(tmp_path, **changes)
    whole.train()
    resumed = trainer_of(tmp_path, **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert logged(resumed, "loss") == logged(whole, "loss")
    assert moved(whole.model.state_dict(), resumed.model.state_dict()) == set()
    assert [group["lr"] for group in resumed.optimizer.param_groups] == [
        group["lr"] for group in whole.optimizer.param_groups
    ]


def test_a_lora_student_saves_and_loads_as_an_adapter_and_merged(tmp_path: Path) -> None:
    model, ids = student(), labelled_examples(2)[0]["input_ids"][None]
    model.save_pretrained(tmp_path / "student")
    untrained = model.eval()(ids).logits
    trainer = trainer_of(tmp_path / "run", model, trains="lora", gate_learning_rate=GATE_RATE)
    trainer.train()
    trained = trainer.model.eval()(ids).logits
    assert (trained - untrained).abs().max() > 0.01
    trainer.save_model(str(tmp_path / "adapter"))
    base = HybridGDNForCausalLM.from_pretrained(tmp_path / "student")
    again = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(again(ids).logits, trained)
    merged = trainer.model.merge_and_unload()
    assert type(merged) is HybridGDNForCausalLM
    merged.save_pretrained(tmp_path / "merged")
    loaded = HybridGDNForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(loaded(ids).logits, trained, rtol=0, atol=1e-4)
    assert loaded.config.calibration["distilled_steps"] == 4


@pytest.mark.parametrize("trains", ["mixers", "lora"])
def test_a_half_precision_student_trains_in_float32(tmp_path: Path, trains: str) -> None:
    for bf16 in (False, True):
        trainer = trainer_of(tmp_path, student().bfloat16(), trains=trains, max_steps=1, bf16=bf16)
        trainer.train()
        assert {weight.dtype for weight in trainer.model.parameters() if weight.requires_grad} == {torch.float32}
        frozen = {weight.dtype for weight in trainer.model.parameters() if not weight.requires_grad}
        assert frozen == {torch.bfloat16 if bf16 and trains == "lora" else torch.float32}
        assert torch.tensor(logged(trainer, "loss")).isfinite().all()


@pytest.mark.parametrize("trains", ["mixers", "lora"])
def test_checkpointing_of_activations_reaches_what_trains_above_frozen_weights(tmp_path: Path, trains: str) -> None:
    plain, checkpointed = (
        trainer_of(tmp_path, trains=trains, max_steps=2, **checkpointing_argument(on)) for on in (False, True)
    )
    for trainer in (plain, checkpointed):
        trainer.train()
    assert logged(checkpointed, "grad_norm") == pytest.approx(logged(plain, "grad_norm"), rel=1e-5)
    assert logged(plain, "grad_norm")[0] > 0


def test_norms_are_found_by_their_class_whatever_they_are_called(tmp_path: Path) -> None:
    teacher = Gemma3ForCausalLM(tiny_config(Gemma3TextConfig))
    model = build_student(teacher, ["linear_attention", "sliding_attention"])
    DistillationTrainer(model, copy.deepcopy(teacher), config(tmp_path, trains="mixers_and_norms"))
    outside = {name for name, weight in model.named_parameters() if weight.requires_grad and MIXER not in name}
    assert outside == {name for name, _ in model.named_parameters() if "norm" in name and ".self_attn." not in name}
    assert len(outside) == 9


def test_lora_leaves_a_router_alone_that_gives_more_than_a_linear_layer(tmp_path: Path) -> None:
    teacher = random_teacher(family_config("phimoe"))
    kinds = build_student(teacher).config.layer_types
    model = build_student(teacher, ["linear_attention", kinds[1]])
    DistillationTrainer(
        model, teacher, config(tmp_path, trains="lora", max_steps=1), train_dataset=labelled_examples(4)
    ).train()
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "g_proj"}


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (tiny_llama, {"trains": "mixers"}, r"trains is 'mixers', .* the model is a LlamaForCausalLM.*'all'"),
        (
            lambda: get_peft_model(student(), LoraConfig()),
            {"trains": "lora"},
            r"student of hf_tc.* is a PeftModel.*'all'",
        ),
        (with_adapter_inside, {"trains": "mixers"}, "trains is 'mixers', and the student has an adapter"),
        (tiny_llama, {"gate_learning_rate": 0.1}, r"gate_learning_rate is 0.1, .* no recurrent layer"),
        (student, {"trains": "gates"}, "trains is 'gates'; it must be one of all, mixers"),
        (student, {"gate_learning_rate": -1.0}, "gate_learning_rate is -1.0; it must be 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, model: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, model(), **changes)


def test_a_given_optimizer_has_its_own_rates(tmp_path: Path) -> None:
    model: nn.Module = student()
    optimizers = (torch.optim.SGD(model.parameters(), lr=0.1), None)
    with pytest.raises(ValueError, match=r"gate_learning_rate is 0\.1, and the optimizer was given"):
        DistillationTrainer(model, tiny_qwen3(), config(tmp_path, gate_learning_rate=0.1), optimizers=optimizers)
