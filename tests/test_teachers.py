# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which teachers are accepted, what a student takes from them, and parity of every reviewed family."""

import copy

import pytest
import torch
from family_checks import allowed_difference, exists, family_config, family_differences
from hf_tc.modeling import GatedDeltaNet
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_tc import family_parity
from hf_tc.family_parity import TOLERANCE, random_teacher, shrink_config
from hf_tc.positionless_layers import find_nope_layers
from hf_tc.teachers import (
    REFUSED_FAMILIES,
    REVIEWED_FAMILIES,
    TeacherParityError,
    UnreviewedTeacherError,
    build_student,
    check_teacher,
    parity_self_check,
    resolve_text_config,
)

LINEAR = "linear_attention"
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return random_teacher(LlamaConfig(**SMALL, tie_word_embeddings=True))


# Families


@pytest.mark.parametrize("model_type", sorted(REVIEWED_FAMILIES))
def test_family(model_type, tmp_path):
    if not exists(model_type):
        pytest.skip(f"{model_type} is not in this Transformers")
    differences = family_differences(model_type, tmp_path)
    assert len(differences) == 7
    assert not {check: value for check, value in differences.items() if not value <= allowed_difference(check)}


def test_no_family_is_both_reviewed_and_refused():
    assert not set(REVIEWED_FAMILIES) & set(REFUSED_FAMILIES)


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
        ("llama", "cache", "prefill and decode"),
        ("llama", "kept", "no layer converted"),
    ],
)
def test_self_check_finds_what_is_not_carried(model_type, broken, check, monkeypatch):
    if broken == "nope":
        monkeypatch.setattr("hf_tc.build_student.find_nope_layers", lambda teacher: [])
    elif broken == "kept":
        monkeypatch.setattr(family_parity, "build_student", _student_with_other_embeddings)
    else:
        monkeypatch.setattr(GatedDeltaNet, "recurrence_inputs", _breaking(broken, GatedDeltaNet.recurrence_inputs))
        monkeypatch.setattr(GatedDeltaNet, "heads", _breaking(broken, GatedDeltaNet.heads))
        monkeypatch.setattr(GatedDeltaNet, "read_out", _breaking(broken, GatedDeltaNet.read_out))
    with pytest.raises(TeacherParityError, match=check) as error:
        parity_self_check(family_config(model_type))
    assert error.value.difference > TOLERANCE
    assert "transformers" in str(error.value)


def _student_with_other_embeddings(teacher, layer_types, **kwargs):
    student = build_student(teacher, layer_types)
    student.get_input_embeddings().weight.data.mul_(1.001)
    return student


def _breaking(what, method):
    """The mixer's `method` with one thing left out."""

    def broken(self, *args, **kwargs):
        if what == "clip":
            self.clip_qkv = None
        elif what == "norm":
            self.norm_after_rotation = not self.norm_after_rotation
        elif what == "padding" and method.__name__ == "recurrence_inputs":
            args = (*args[:2], type(args[2])(), *args[3:])
        elif what == "cache" and method.__name__ == "read_out":
            args = (*args[:3], None)
        result = method(self, *args, **kwargs)
        if what == "norm":
            self.norm_after_rotation = not self.norm_after_rotation
        return result

    return broken


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


# NoPE layers


def test_nope_layers_are_measured():
    config = AutoConfig.for_model("smollm3", **SMALL | {"num_hidden_layers": 4, "pad_token_id": 0})
    teacher = random_teacher(config)
    assert find_nope_layers(teacher) == [3]
    student = build_student(teacher, [LINEAR] * 4)
    assert student.config.nope_layers == [3]
    assert [layer.self_attn.rotary is None for layer in student.model.layers] == [False, False, False, True]


def test_measuring_leaves_modes_and_hooks_as_they_were(llama):
    llama.train()
    llama.model.layers[0].eval()
    modes = [module.training for module in llama.modules()]
    assert find_nope_layers(llama) == []
    assert [module.training for module in llama.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in llama.modules())


# What a student takes from its teacher


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
    teacher = random_teacher(LlamaConfig(**SMALL, max_position_embeddings=8, rope_parameters=rope))
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


# Refusals


def test_reviewed_families_are_accepted(llama):
    check_teacher(llama)
    assert resolve_text_config(llama) is llama.config


def test_an_unreviewed_family_is_refused_with_the_list_and_the_way_out(llama):
    llama.config.model_type = "llama_of_tomorrow"
    with pytest.raises(UnreviewedTeacherError, match=r"llama_of_tomorrow.*qwen3_moe.*allow_unreviewed=True"):
        check_teacher(llama)
    check_teacher(llama, allow_unreviewed=True)


def test_a_refused_family_is_refused_whatever_the_flag():
    teacher = AutoModelForCausalLM.from_config(AutoConfig.for_model("stablelm", **SMALL))
    with pytest.raises(ValueError, match="keyword arguments"):
        check_teacher(teacher, allow_unreviewed=True)


def test_wrong_kinds_of_model_are_refused(llama):
    bert = BertForMaskedLM(BertConfig(**SMALL))
    with pytest.raises(ValueError, match="BertForMaskedLM"):
        check_teacher(bert)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="encoder-decoder"):
        check_teacher(t5)
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        check_teacher(LlamaModel(llama.config))
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        check_teacher(LlamaForSequenceClassification(llama.config))
    with pytest.raises(ValueError, match="Unwrap"):
        check_teacher(torch.nn.Sequential(llama))


def test_a_multimodal_wrapper_names_its_language_model():
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    wrapper = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config={**SMALL, "head_dim": 8}, vision_config={**vision, "image_size": 28, "patch_size": 14})
    )
    with pytest.raises(ValueError, match="Gemma3ForCausalLM"):
        check_teacher(wrapper)


def test_a_student_and_a_hybrid_are_refused(llama):
    with pytest.raises(ValueError, match="already a hybrid_gdn student"):
        check_teacher(build_student(llama, [LINEAR, "full_attention"]))
    qwen3_next = copy.copy(llama)
    qwen3_next.config = copy.deepcopy(llama.config)
    qwen3_next.config.layer_types = [LINEAR, "full_attention"]
    with pytest.raises(ValueError, match="already has recurrent layers"):
        check_teacher(qwen3_next)


def test_an_attention_that_sees_the_future_is_refused():
    config = family_config("gemma3_text")
    config.use_bidirectional_attention = True
    with pytest.raises(ValueError, match="future"):
        check_teacher(random_teacher(config))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(llama, value):
    llama.model.layers[1].mlp.up_proj.weight.data[3, 4] = value
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight has 1 of 1024"):
        check_teacher(llama)


def test_weights_without_data_are_named(llama):
    with pytest.raises(ValueError, match="meta device"):
        check_teacher(llama.to("meta"))


def test_a_quantised_teacher_is_refused(llama):
    llama.hf_quantizer = object()
    with pytest.raises(ValueError, match="quantised"):
        check_teacher(llama)
