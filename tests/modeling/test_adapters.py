# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""LoRA on recurrent and retained layers: default targets, training, saving, merging. Quantised loading says no."""

import pytest
import torch
from library_names import checkpoint_activations
from optional_packages import NEEDS_A_NEWER_PEFT
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model
from tiny_models import student, token_ids

from hf_tc.modeling import HybridGDNForCausalLM

ALL_LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "g_proj"}


def adapted(target_modules: str | list[str] | None = None, family: str = "qwen2", **options):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=target_modules, task_type=TaskType.CAUSAL_LM, **options)
    return get_peft_model(student(family), config)


def targets(model) -> set[str]:
    return {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_A" in name}


def train(model) -> None:
    """A few steps, after which the adapter matters."""
    ids = token_ids(2, 12)
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.05)
    for _ in range(3):
        model.train()(ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval()


def test_default_targets_and_all_linear() -> None:
    assert targets(adapted()) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert targets(adapted("all-linear")) == ALL_LINEAR


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["short_conv"]}])
def test_an_adapter_trains_saves_loads_and_merges(options: dict, tmp_path) -> None:
    model, ids = adapted("all-linear", **options), token_ids(2, 9)
    before = model(ids).logits
    train(model)
    trained = model(ids).logits
    assert (trained - before).abs().max() > 0.1
    frozen = [p for name, p in model.named_parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(student("qwen2"), tmp_path).eval()
    assert torch.equal(again(ids).logits, trained)
    merged = again.merge_and_unload()
    assert type(merged) is HybridGDNForCausalLM
    torch.testing.assert_close(merged(ids).logits, trained, rtol=0, atol=2e-3)
    arguments = dict(max_new_tokens=5, do_sample=False)
    assert merged.generate(ids, **arguments).tolist() == model.generate(input_ids=ids, **arguments).tolist()


def test_an_adapter_trains_under_checkpointing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model, ids = adapted("all-linear").train(), token_ids(2, 9)
        if checkpointing:
            model.enable_input_require_grads()
            checkpoint_activations(model)
        model(ids, labels=ids).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())
    assert any(gradient.abs().sum() > 0 for gradient in gradients[0].values())


@NEEDS_A_NEWER_PEFT
def test_the_library_adds_an_adapter_to_a_student_itself(tmp_path) -> None:
    model, ids = student("qwen2"), token_ids(1, 9)
    plain = model(ids).logits
    model.add_adapter(LoraConfig(r=2, init_lora_weights=False))
    assert not torch.equal(model(ids).logits, plain)
    model.disable_adapters()
    assert torch.equal(model(ids).logits, plain)


def test_the_gates_train_and_are_saved_beside_an_adapter(tmp_path) -> None:
    model, ids = adapted(["q_proj"], modules_to_save=["a_proj", "b_proj"]), token_ids(2, 9)
    train(model)
    trained = model(ids).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(student("qwen2"), tmp_path).eval()(ids).logits, trained)


def test_prompt_tuning_trains_a_hybrid() -> None:
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    model, ids = get_peft_model(student("qwen2"), config), token_ids(2, 9)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)


@pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning")  # PEFT's own call
def test_prefix_tuning_is_refused_by_name() -> None:
    config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    ids = token_ids(2, 9)
    with pytest.raises(ValueError, match=r"prefix tuning.*use LoRA or prompt tuning"):
        get_peft_model(student("qwen2"), config)(input_ids=ids, labels=ids)
    assert get_peft_model(student("qwen2", linear=()), config)(input_ids=ids, labels=ids).loss.isfinite()
