# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a student takes from its teacher, what it adds, and that the teacher stays as it was."""

import pytest
import torch
from family_checks import family_config
from planted import small_llama, tiny_teacher

from hf_tc.config import MixerConfig
from hf_tc.modeling.plain_recurrence_inputs import heads
from hf_tc.modeling.recurrence_inputs import l2_normalise
from hf_tc.teachers.new_student import build_student, mixer_of, teachers_mixer
from hf_tc.teachers.small_teacher import random_teacher

LINEAR = "linear_attention"
llama = pytest.fixture(small_llama)


@pytest.mark.parametrize("share_weights", [True, False])
def test_the_teacher_is_untouched(llama, share_weights):
    modules = {name: id(module) for name, module in llama.named_modules()}
    weights = {name: (id(p), p.data_ptr(), p.detach().clone()) for name, p in llama.named_parameters()}
    config = llama.config.to_dict()
    student = build_student(llama, [LINEAR, "full_attention"], share_weights=share_weights)
    with torch.no_grad():
        student.model.layers[0].self_attn.q_proj.weight.zero_()
    assert {name: id(module) for name, module in llama.named_modules()} == modules
    for name, parameter in llama.named_parameters():
        assert (id(parameter), parameter.data_ptr()) == weights[name][:2]
        assert torch.equal(parameter, weights[name][2])
    assert llama.config.to_dict() == config
    assert student.config.text_config is not llama.config
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in llama.modules())


def test_sharing_uses_the_teachers_storage_outside_recurrent_layers_only(llama):
    student = build_student(llama, [LINEAR, "full_attention"], share_weights=True)
    teacher_weights = dict(llama.named_parameters())
    for name, parameter in student.named_parameters():
        if name in teacher_weights:
            assert parameter is not teacher_weights[name]
            shared = parameter.data_ptr() == teacher_weights[name].data_ptr()
            assert shared == ("layers.0.self_attn" not in name), name
    copied = build_student(llama, [LINEAR, "full_attention"])
    pointers = {p.data_ptr() for p in llama.parameters()}
    assert not pointers & {p.data_ptr() for p in copied.parameters()}


def test_ties_dtype_mode_and_generation_config_are_the_teachers(llama):
    llama.to(torch.bfloat16).train()
    llama.generation_config.temperature = 0.25
    student = build_student(llama, [LINEAR, "full_attention"], config_kwargs={"conv_kernel_size": 2})
    assert student.lm_head.weight is student.model.embed_tokens.weight
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
    assert student.config.dtype == student.dtype == torch.bfloat16
    assert student.training
    assert student.generation_config.temperature == 0.25
    assert student.generation_config is not llama.generation_config
    assert student.config.conv_kernel_size == 2
    assert student.config._attn_implementation == llama.config._attn_implementation
    assert all(p.requires_grad for p in student.parameters())


def test_rotary_tables_follow_a_teacher_that_was_cast(llama):
    llama.to(torch.bfloat16)
    student = build_student(llama, ["full_attention"] * 2)
    ids = torch.arange(3, 13)[None]
    assert torch.equal(student(ids).logits, llama(ids).logits)
    assert not any(buffer.is_meta for buffer in student.buffers())


def test_a_dynamic_rotary_table_and_its_length_are_taken_over():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    teacher = tiny_teacher("llama", num_hidden_layers=2, max_position_embeddings=8, rope_parameters=rope)
    teacher(torch.arange(3, 35)[None])
    assert teacher.model.rotary_emb.max_seq_len_cached == 32
    student = build_student(teacher, ["full_attention"] * 2)
    for length in (20, 6):  # between the two lengths, and where the table goes back
        ids = torch.arange(3, 3 + length)[None]
        assert torch.equal(student(ids).logits, teacher(ids).logits)


def test_new_parameters_start_as_the_model_initialises_them(llama):
    mixer = build_student(llama, [LINEAR, LINEAR]).model.layers[1].self_attn
    assert torch.equal(mixer.short_conv.weight[0], torch.ones(64))
    assert not mixer.short_conv.weight[1:].any()
    assert mixer.A_log.exp().min() > 0.9
    assert 0.001 < mixer.g_proj.weight.std() < 0.1
    assert not mixer.b_proj.bias.any()


def test_a_fused_projection_is_split_and_sinks_are_left_out():
    neox, gpt_oss = (random_teacher(family_config(model_type)) for model_type in ("gpt_neox", "gpt_oss"))
    names = dict(build_student(neox, [LINEAR, "full_attention"]).named_parameters())
    assert "gpt_neox.layers.0.attention.q_proj.bias" in names
    assert "gpt_neox.layers.0.attention.query_key_value.weight" not in names
    assert "gpt_neox.layers.1.attention.query_key_value.weight" in names
    names = dict(build_student(gpt_oss, [LINEAR, "full_attention"]).named_parameters())
    assert "model.layers.0.self_attn.sinks" not in names
    assert "model.layers.1.self_attn.sinks" in names


@pytest.mark.parametrize("name", ["lambda_q1", "g_proj"])
def test_an_attention_with_unknown_parameters_is_refused(llama, name):
    llama.model.layers[0].self_attn.register_module(name, torch.nn.Linear(32, 32))
    with pytest.raises(RuntimeError, match=name):
        build_student(llama, [LINEAR, "full_attention"])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "olmo2", "cohere", "phi", "gpt_neox"])
def test_form_of_qwen3_5_has_the_norms_in_its_projections_and_no_biases(family: str) -> None:
    """Of a teacher whose norms' divisions a later L2 norm takes out: q and k point where the teacher's do."""
    changes = {"cohere": {"use_qk_norm": True}, "gpt_neox": {"num_key_value_heads": 4}}.get(family, {})
    teacher = tiny_teacher(family, num_hidden_layers=2, **changes)
    form = MixerConfig("qwen3_5").fields(teacher.config)
    student = build_student(teacher, [LINEAR, LINEAR], config_kwargs=form)
    mixer, attention = mixer_of(student, 1), teachers_mixer(teacher, student, 1)
    assert not any(name.endswith("bias") for name, _ in mixer.named_parameters() if name != "dt_bias")
    x = torch.randn(2, 7, teacher.config.hidden_size, generator=torch.Generator().manual_seed(0))
    for projection in (attention.q_proj, attention.k_proj):
        if projection.bias is not None:
            torch.nn.init.zeros_(projection.bias)
    wanted, found = (heads(module, module.project(x), None)[:2] for module in (attention, mixer))
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(l2_normalise(other), l2_normalise(one), rtol=1e-4, atol=1e-4)
