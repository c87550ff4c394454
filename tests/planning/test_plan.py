# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Plans against the students they plan, from every source of a configuration; and what they refuse."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import QWEN3_8B, letter_teacher
from family_checks import family_config
from tiny_sizes import SIZES, SIZES_WITHOUT_HEAD_DIM
from transformers import AutoConfig, BertConfig, Gemma3Config, PreTrainedConfig, T5Config

from hf_tc.config import ConversionConfig
from hf_tc.modeling.library_cache import cache_of
from hf_tc.planning.plan import ConversionPlan, plan_conversion
from hf_tc.planning.time import passes
from hf_tc.teachers.checks import UnreviewedTeacherError
from hf_tc.teachers.families import REVIEWED_FAMILIES
from hf_tc.teachers.new_student import build_student
from hf_tc.teachers.small_teacher import random_teacher, shrink_config

SOME_FAMILIES = ["gemma3_text", "gpt_neox", "gpt_oss", "llama", "mistral", "phi3", "qwen2", "qwen3_moe"]


def small_config(family: str) -> PreTrainedConfig:
    return shrink_config(family_config(family), layers=2)


def layer_types(plan: ConversionPlan, config: PreTrainedConfig) -> list[str]:
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"] * 2
    return ["linear_attention" if index in plan.linear_layers else kind for index, kind in enumerate(kinds)]


@pytest.mark.parametrize("family", [*SOME_FAMILIES, "cohere2", "olmoe", "phi", "smollm3"])
def test_parameters_are_those_of_a_built_student(family: str) -> None:
    config = small_config(family)
    plan = plan_conversion(config, retained_layers=[1])
    teacher = random_teacher(config)
    fields = ConversionConfig().mixer.fields(config)
    student = build_student(teacher, layer_types(plan, config), config_kwargs=fields)
    assert plan.teacher_parameters == sum(parameter.numel() for parameter in teacher.parameters())
    assert plan.student_parameters == sum(parameter.numel() for parameter in student.parameters())
    assert plan.added_parameters > 0
    assert (plan.retained_layers, plan.linear_layers) == ((1,), (0,))


def cached_bytes(cache: Any) -> int:
    tensors = []
    for layer in cache.layers:
        states = (getattr(layer, "recurrent_states", None) or {}), (getattr(layer, "conv_states", None) or {})
        tensors += [layer.keys, layer.values, *states[0].values(), *states[1].values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_cache_bytes_are_those_of_a_filled_cache(family: str, dtype: torch.dtype) -> None:
    config = small_config(family)
    plan = plan_conversion(config, retained_layers=[1], dtype=dtype)
    teacher = random_teacher(config).to(dtype)
    student = build_student(teacher, layer_types(plan, config))
    for tokens in (3, 5, 6, 23):  # the window is 6 in families that have one
        ids = torch.randint(3, 90, (1, tokens))
        assert plan.cache.teacher(tokens) == cached_bytes(cache_of(teacher(ids, use_cache=True)))
        assert plan.cache.student(tokens) == cached_bytes(cache_of(student(ids, use_cache=True)))


def test_weights_on_disk_are_the_counted_bytes(tmp_path: Path) -> None:
    teacher = letter_teacher(tie_word_embeddings=True)
    plan = plan_conversion(teacher.config)
    build_student(teacher, layer_types(plan, teacher.config)).save_pretrained(tmp_path)
    written = (tmp_path / "model.safetensors").stat().st_size
    assert 0 <= written - plan.student_bytes < 20_000  # the file's header


def test_a_policy_that_measures_says_how_many_layers_and_what_it_costs() -> None:
    config = AutoConfig.for_model("llama", **{**SIZES, "num_hidden_layers": 8})
    uniform = plan_conversion(config, retained_layers=0.25, layer_policy="uniform")
    assert uniform.selection_forwards == 0
    greedy = 8 + 7 + 6 + 5 + 4 + 3 + 2
    for policy, forwards in (("bypass", 8), ("kl", 8), ("restore", 12), ("recall", 24), ("greedy", greedy)):
        plan = plan_conversion(config, retained_layers=0.25, layer_policy=policy)
        assert (plan.policy, len(plan.retained_layers), plan.selection_forwards) == (policy, 2, forwards)
        assert plan.student_parameters == uniform.student_parameters
        assert passes(plan) > passes(uniform)


def test_a_folder_a_file_and_a_config_give_the_same_plan_without_weights(tmp_path: Path) -> None:
    config = AutoConfig.for_model("qwen3", **QWEN3_8B)
    config.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json"}
    plans = [plan_conversion(source) for source in (tmp_path, tmp_path / "config.json", config)]
    assert plans[0].student_parameters == plans[1].student_parameters == plans[2].student_parameters > 8e9
    assert plans[0].dtype == torch.bfloat16


VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
REFUSED = {
    "refused family": (AutoConfig.for_model("stablelm", **SIZES_WITHOUT_HEAD_DIM), "keyword arguments"),
    "encoder-decoder": (T5Config(), "T5"),
    "encoder": (BertConfig(), "bert"),
    "multimodal": (
        Gemma3Config(text_config=SIZES, vision_config={**VISION, "image_size": 28, "patch_size": 14}),
        "Gemma3ForCausalLM",
    ),
    "quantised": (AutoConfig.for_model("llama", **SIZES, quantization_config={"quant_method": "gptq"}), "quantised"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_conversion_refuses_is_refused(kind: str) -> None:
    config, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        plan_conversion(config)


def test_an_unreviewed_family_is_planned_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(REVIEWED_FAMILIES, "llama")
    config = AutoConfig.for_model("llama", **SIZES)
    with pytest.raises(UnreviewedTeacherError):
        plan_conversion(config)
    assert plan_conversion(config, allow_unreviewed=True).preserved is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retained_layers": [3]}, "contains 3; the teacher has 3 layers"),
        ({"retained_layers": 1.5}, r"1\.5; a share must lie in \[0, 1\]"),
        ({"layer_policy": "best"}, "'best'; it must be one of"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_conversion(AutoConfig.for_model("llama", **SIZES), **options)


def test_8_bit_teachers_are_planned() -> None:
    quantised = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    config = AutoConfig.for_model("llama", **SIZES, quantization_config=quantised)
    assert (
        plan_conversion(config).teacher_parameters
        == plan_conversion(AutoConfig.for_model("llama", **SIZES)).teacher_parameters
    )
