# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The student answers the library as its family would, whatever methods the family has of its own."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from tiny_models import perturb, student, token_ids
from tiny_sizes import SIZES_WITHOUT_HEAD_DIM
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM
from hf_tc.modeling.family_object import overridden_methods
from hf_tc.teachers.families import REVIEWED_FAMILIES
from hf_tc.teachers.nope_layers import evaluating

# What families override today. A new name here wants a look: does the family's version see what the student's own
# would see? Those bound to the family object get its configuration, its modules and the student's masks.
KNOWN_OVERRIDES = {
    "_init_weights",
    "forward",
    "get_input_embeddings",
    "set_input_embeddings",
    "get_output_embeddings",
    "set_output_embeddings",
    "prepare_inputs_for_generation",
}
PRESENT_FAMILIES = sorted(family for family in REVIEWED_FAMILIES if family in CONFIG_MAPPING)


@pytest.mark.parametrize("family", PRESENT_FAMILIES)
def test_no_family_overrides_what_nobody_looked_at(family: str) -> None:
    for mapping in (MODEL_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        family_class = mapping[CONFIG_MAPPING[family]]
        unknown = overridden_methods(family_class) - KNOWN_OVERRIDES
        assert not unknown, f"{family_class.__name__} overrides {unknown}"


def longrope_student(family: str, linear: tuple[int, ...]) -> HybridGDNForCausalLM:
    """A student whose rotation changes from 17 tokens on, which makes what was cached before wrong."""
    rope: dict[str, Any] = dict(
        rope_type="longrope",
        rope_theta=10000.0,
        short_factor=[1.0] * 4,
        long_factor=[8.0] * 4,
        original_max_position_embeddings=16,
        factor=4.0,
    )
    rope |= dict(short_mscale=1.0, long_mscale=1.2) if family == "phimoe" else {}
    sizes = {**SIZES_WITHOUT_HEAD_DIM, "eos_token_id": None, "max_position_embeddings": 64}
    config = AutoConfig.for_model(
        family, **sizes, sliding_window=None, original_max_position_embeddings=16, rope_parameters=rope
    )
    layer_types = ["linear_attention" if i in linear else "full_attention" for i in range(3)]
    torch.manual_seed(0)
    return perturb(HybridGDNForCausalLM(HybridGDNConfig(text_config=config, layer_types=layer_types)))


@pytest.mark.parametrize("family", ["phi3", "phimoe"])
@pytest.mark.parametrize("linear", [(), (1,), (0, 1, 2)])
@pytest.mark.parametrize("arguments", [{}, {"num_beams": 2}], ids=str)
def test_generation_crosses_where_longrope_switches(family: str, linear: tuple[int, ...], arguments: dict) -> None:
    model, ids = longrope_student(family, linear), token_ids(2, 10)
    teacher = perturb(AutoModelForCausalLM.from_config(model.config.text_config))
    if outcome(teacher, ids, **arguments) != outcome(teacher, ids, use_cache=False, **arguments):
        pytest.skip("in this Transformers the teacher itself does not cross it with a cache")
    assert outcome(model, ids, **arguments) == outcome(model, ids, use_cache=False, **arguments)


def outcome(model: PreTrainedModel, ids: torch.Tensor, **arguments: Any) -> list[list[int]] | str:
    """The tokens, or what the model said instead."""
    try:
        return model.generate(ids, max_new_tokens=14, do_sample=False, **arguments).tolist()
    except (RuntimeError, ValueError) as error:
        return str(error)


@pytest.mark.parametrize("family", ["phi3", "phimoe"])
def test_assistants_across_that_point_are_right_or_refused(family: str) -> None:
    """The teacher's own tokens are then wrong at times; a recurrent layer notices that its cache was replaced."""
    model, refusals = longrope_student(family, (1,)), 0
    for seed in range(6):
        ids = token_ids(1, 5, seed=seed).repeat(1, 2)
        found = outcome(model, ids, prompt_lookup_num_tokens=2)
        refused = isinstance(found, str) and ("cannot be undone" in found or "attention_mask covers" in found)
        assert refused or found == outcome(model, ids, use_cache=False)
        refusals += refused
    assert refusals


def test_a_copy_generates_by_its_own_family_object() -> None:
    model, ids = longrope_student("phi3", (1,)), token_ids(1, 10)
    expected = model.generate(ids, max_new_tokens=5, do_sample=False)
    clone = copy.deepcopy(model)
    assert clone.prepare_inputs_for_generation.__self__ is clone.family
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert torch.equal(clone.generate(ids, max_new_tokens=5, do_sample=False), expected)


def test_output_embeddings_are_where_the_family_has_them() -> None:
    config = AutoConfig.for_model("gpt_neox", **SIZES_WITHOUT_HEAD_DIM)
    model = HybridGDNForCausalLM(HybridGDNConfig(text_config=config))
    head = model.get_output_embeddings()
    assert head is model.family.get_output_embeddings()
    assert head.weight.shape == (61, 32)
    model.set_output_embeddings(torch.nn.Linear(32, 7, bias=False))
    assert model(token_ids(1, 4)).logits.shape == (1, 4, 7)


def hidden_objects(model: HybridGDNForCausalLM) -> list[PreTrainedModel]:
    return [model.family, model.model.family]


def agree(model: HybridGDNForCausalLM) -> bool:
    """Whether student and hidden objects have one mode, one configuration and the same modules and parameters."""
    pairs = [(model, model.family), (model.model, model.model.family)]
    return all(
        ours.training == hidden.training
        and hidden.config is ours.config.text_config
        and ours._modules is hidden._modules
        and [id(p) for p in ours.parameters()] == [id(p) for p in hidden.parameters()]
        for ours, hidden in pairs
    )


def test_nothing_pulls_student_and_family_object_apart(tmp_path: Path) -> None:
    model, ids = student("qwen3", (0, 2)), token_ids(1, 6)
    expected = model(ids).logits
    for change in (
        lambda: model.train(),
        lambda: model.eval(),
        lambda: setattr(model.model, "training", True),
        lambda: model.requires_grad_(False),
        lambda: model.to(torch.float64).to(torch.float32),
        lambda: setattr(model, "config", copy.deepcopy(model.config)),
        lambda: setattr(model.model, "config", model.config),
        lambda: model.set_attn_implementation("eager"),
    ):
        change()
        assert agree(model), change
    with evaluating(model.train()):
        assert not any(hidden.training for hidden in hidden_objects(model))
        assert agree(model)
    assert all(hidden.training for hidden in hidden_objects(model))
    torch.save(model, tmp_path / "whole.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "whole.pt", weights_only=False)):
        assert agree(other)
        assert other.family is not model.family
        torch.testing.assert_close(other.eval()(ids).logits, expected, rtol=0, atol=1e-5)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type=TaskType.CAUSAL_LM))
    wrapped.train()
    assert agree(model)
    assert model.family.model.layers[1].self_attn.q_proj is model.model.layers[1].self_attn.q_proj


def test_hooks_on_the_family_object_fire() -> None:
    model, calls = student("qwen3", (0, 2)), []
    for hidden in hidden_objects(model):
        hidden.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    model(token_ids(1, 4))
    assert calls == ["Qwen3Model", "Qwen3ForCausalLM"]
