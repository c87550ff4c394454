# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which teachers are accepted, and which are refused and how."""

import copy

import pytest
import torch
from family_checks import family_config
from planted import small_llama
from tiny_sizes import SIZES, SIZES_WITHOUT_HEAD_DIM
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaForSequenceClassification,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_tc.teachers.checks import UnreviewedTeacherError, check_teacher, resolve_text_config
from hf_tc.teachers.families import REFUSED_FAMILIES, REVIEWED_FAMILIES
from hf_tc.teachers.new_student import build_student
from hf_tc.teachers.small_teacher import random_teacher

llama = pytest.fixture(small_llama)


def test_no_family_is_both_reviewed_and_refused():
    assert not set(REVIEWED_FAMILIES) & set(REFUSED_FAMILIES)


def test_reviewed_families_are_accepted(llama):
    check_teacher(llama)
    assert resolve_text_config(llama) is llama.config


def test_an_unreviewed_family_is_refused_with_the_list_and_the_way_out(llama):
    llama.config.model_type = "llama_of_tomorrow"
    with pytest.raises(UnreviewedTeacherError, match=r"llama_of_tomorrow.*qwen3_moe.*allow_unreviewed=True"):
        check_teacher(llama)
    check_teacher(llama, allow_unreviewed=True)


def test_a_refused_family_is_refused_whatever_the_flag():
    teacher = AutoModelForCausalLM.from_config(AutoConfig.for_model("stablelm", **SIZES_WITHOUT_HEAD_DIM))
    with pytest.raises(ValueError, match="keyword arguments"):
        check_teacher(teacher, allow_unreviewed=True)


def test_wrong_kinds_of_model_are_refused(llama):
    bert = BertForMaskedLM(BertConfig(**SIZES_WITHOUT_HEAD_DIM))
    with pytest.raises(ValueError, match="BertForMaskedLM"):
        check_teacher(bert)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="encoder-decoder"):
        check_teacher(t5)
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        check_teacher(LlamaModel(llama.config))
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        check_teacher(LlamaForSequenceClassification(llama.config))
    with pytest.raises(ValueError, match="of type Sequential"):
        check_teacher(torch.nn.Sequential(llama))


def test_a_multimodal_wrapper_names_its_language_model():
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    wrapper = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=SIZES, vision_config={**vision, "image_size": 28, "patch_size": 14})
    )
    with pytest.raises(ValueError, match="Gemma3ForCausalLM"):
        check_teacher(wrapper)


def test_a_student_and_a_hybrid_are_refused(llama):
    with pytest.raises(ValueError, match="already a hybrid_gdn student"):
        check_teacher(build_student(llama, ["linear_attention", "full_attention"]))
    qwen3_next = copy.copy(llama)
    qwen3_next.config = copy.deepcopy(llama.config)
    qwen3_next.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="already has recurrent layers"):
        check_teacher(qwen3_next)


def test_a_family_of_hybrids_is_accepted_where_every_layer_is_attention():
    teacher = random_teacher(family_config("granitemoehybrid"))
    assert teacher._is_stateful
    check_teacher(teacher)
    teacher.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="already has recurrent layers"):
        check_teacher(teacher)


def test_an_attention_that_sees_the_future_is_refused():
    config = family_config("gemma3_text")
    config.use_bidirectional_attention = True
    with pytest.raises(ValueError, match="future"):
        check_teacher(random_teacher(config))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(llama, value):
    llama.model.layers[1].mlp.up_proj.weight.data[3, 4] = value
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight has 1 of 1536"):
        check_teacher(llama)


def test_weights_without_data_are_named(llama):
    with pytest.raises(ValueError, match="meta device"):
        check_teacher(llama.to("meta"))


def test_a_quantised_teacher_is_refused(llama):
    llama.hf_quantizer = object()
    with pytest.raises(ValueError, match="quantised"):
        check_teacher(llama)
