# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Parity of every reviewed family, and a self-check that finds what a student does not preserve."""

import copy

import pytest
import torch
from family_checks import allowed_difference, exists, family_config, family_differences
from transformers import AutoConfig

from hf_tc.modeling.plain_recurrence_inputs import heads, plain_inputs
from hf_tc.teachers import parity as family_parity
from hf_tc.teachers.families import REVIEWED_FAMILIES
from hf_tc.teachers.new_student import build_student
from hf_tc.teachers.parity import TOLERANCE, TeacherParityError, parity_self_check
from hf_tc.teachers.small_teacher import shrink_config


@pytest.mark.parametrize("model_type", sorted(REVIEWED_FAMILIES))
def test_family(model_type, tmp_path):
    if not exists(model_type):
        pytest.skip(f"{model_type} is not in this Transformers")
    differences = family_differences(model_type, tmp_path)
    assert len(differences) == 7
    assert not {check: value for check, value in differences.items() if not value <= allowed_difference(check)}


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text"])
def test_self_check_passes_and_leaves_the_random_state(model_type):
    config, before = family_config(model_type), torch.get_rng_state()
    untouched = copy.deepcopy(config.to_dict())
    differences = parity_self_check(config)
    assert differences["no layer converted equals teacher"] == 0.0
    assert max(differences.values()) < TOLERANCE
    assert torch.equal(torch.get_rng_state(), before)
    assert config.to_dict() == untouched


@pytest.mark.parametrize(
    ("model_type", "broken", "check"),
    [
        ("cohere2", "nope", "q, k and v"),
        ("exaone4", "nope", "q, k and v"),
        ("olmo", "clip", "q, k and v"),
        ("hunyuan_v1_dense", "norm", "q, k and v"),
        ("phi", "norm", "q, k and v"),
        ("llama", "padding", "left-padded"),
        ("llama", "kept", "no layer converted"),
    ],
)
def test_self_check_finds_what_is_not_preserved(model_type, broken, check, monkeypatch):
    if broken == "nope":
        monkeypatch.setattr("hf_tc.teachers.new_student.find_nope_layers", lambda teacher: [])
    elif broken == "kept":
        monkeypatch.setattr(family_parity, "build_student", _student_with_other_embeddings)
    else:
        monkeypatch.setattr("hf_tc.modeling.gated_deltanet.plain_inputs", _breaking(broken, plain_inputs))
        monkeypatch.setattr("hf_tc.teachers.parity.heads", _breaking(broken, heads))
    with pytest.raises(TeacherParityError, match=check) as error:
        parity_self_check(family_config(model_type))
    assert error.value.difference > TOLERANCE
    assert "transformers" in str(error.value)


def _student_with_other_embeddings(teacher, layer_types, **kwargs):
    student = build_student(teacher, layer_types)
    student.get_input_embeddings().weight.data.mul_(1.001)
    return student


def _breaking(what, function):
    """A function of a mixer with one thing left out."""

    def broken(mixer, *args):
        if what == "clip":
            mixer.clip_qkv = None
        elif what == "norm":
            mixer.norm_after_rotation = not mixer.norm_after_rotation
        elif what == "padding" and function is plain_inputs:
            projections, rotation, mask, past = args
            args = (projections, rotation, type(mask)(), past)
        result = function(mixer, *args)
        if what == "norm":
            mixer.norm_after_rotation = not mixer.norm_after_rotation
        return result

    return broken


@pytest.mark.parametrize("model_type", ["llama", "cohere2"])
def test_self_check_finds_a_cache_that_does_not_reach_recurrent_layers(model_type, monkeypatch):
    monkeypatch.setattr("hf_tc.modeling.gated_deltanet.cache_in_layer", lambda kwargs: None)
    with pytest.raises(TeacherParityError, match=r"prefill and decode.*layers \[0\] did not store 8 tokens"):
        parity_self_check(family_config(model_type))


def test_self_check_reports_a_family_that_cannot_be_built():
    with pytest.raises(TeacherParityError, match="no `layers`") as error:
        parity_self_check(AutoConfig.for_model("gpt2", vocab_size=64))
    assert error.value.difference is None


def test_shrinking_keeps_each_kind_of_layer_and_the_head_size():
    config = AutoConfig.for_model("gemma3_text", num_hidden_layers=12)
    small = shrink_config(config)
    assert small.layer_types == ["sliding_attention", "full_attention"]
    assert small.head_dim == config.head_dim
    assert small.query_pre_attn_scalar == config.query_pre_attn_scalar
    assert config.num_hidden_layers == 12


def test_shrinking_invents_no_experts_and_prunes_a_pruned_head_further():
    assert family_config("granitemoehybrid").num_local_experts == 0
    assert shrink_config(AutoConfig.for_model("llama", output_vocab_size=1000)).output_vocab_size < 96
