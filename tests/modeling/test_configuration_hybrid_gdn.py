# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The student's configuration: what it carries, what it forwards, what it refuses."""

import copy
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from tiny_models import FAMILIES, student, student_config, teacher_config, token_ids
from transformers import AutoConfig

from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family: str, tmp_path) -> None:
    config = student_config(family, conv_kernel_size=3, recurrent_rope=False)
    config.calibration = {"tokens": 1000, "seed": 1}
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is HybridGDNConfig
    assert type(again.text_config) is type(teacher_config(family))
    assert again.text_config.to_dict() == config.text_config.to_dict()
    for name in ("layer_types", "conv_kernel_size", "recurrent_rope", "calibration", "tie_word_embeddings"):
        assert getattr(again, name) == getattr(config, name), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_teachers_configuration_is_kept_word_for_word(family: str) -> None:
    assert student_config(family).text_config.to_dict() == teacher_config(family).to_dict()


def test_layers_default_to_the_teachers() -> None:
    assert HybridGDNConfig(text_config=teacher_config("qwen2")).layer_types == [FULL, FULL, SLIDING, SLIDING]
    assert HybridGDNConfig(text_config=teacher_config("mistral")).layer_types == [SLIDING] * 4
    assert HybridGDNConfig(text_config=teacher_config("llama")).layer_types == [FULL] * 4


def test_linear_and_retained_layers() -> None:
    config = student_config("qwen2", linear=(3, 0))
    assert config.layer_types == [LINEAR, FULL, SLIDING, LINEAR]
    assert config.linear_layers == (0, 3)
    assert config.retained_layers == (1, 2)


def test_sizes_are_read_and_written_through() -> None:
    config = student_config()
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (32, 4, 61)
    config.vocab_size = 70
    assert config.text_config.vocab_size == 70
    assert HybridGDNConfig(text_config=teacher_config(), vocab_size=71).text_config.vocab_size == 71
    assert "vocab_size" not in config.to_diff_dict()


@pytest.mark.parametrize("tied", [False, True])
def test_tying_decided_later_is_saved(tied: bool, tmp_path) -> None:
    config = student_config("llama" if not tied else "qwen2")  # the teachers of the tests: tied, and not
    assert config.tie_word_embeddings != tied
    config.tie_word_embeddings = tied
    model = HybridGDNForCausalLM(config)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    model.save_pretrained(tmp_path)
    again = HybridGDNForCausalLM.from_pretrained(tmp_path)
    assert again.config.tie_word_embeddings == tied
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_window_that_the_teachers_configuration_forgets_does_not_keep_a_student_from_loading(tmp_path) -> None:
    config = student_config("qwen3_moe", linear=(0,))
    config.sliding_window = 2  # and not use_sliding_window, without which this family drops it on loading
    assert config.layer_types == [LINEAR, SLIDING, SLIDING, SLIDING]
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.sliding_window is None
    assert again.layer_types == [LINEAR, FULL, FULL, FULL]


def test_a_text_configuration_may_be_a_dictionary() -> None:
    config = HybridGDNConfig(text_config=teacher_config("qwen3").to_dict())
    assert type(config.text_config) is type(teacher_config("qwen3"))


@pytest.mark.parametrize(
    ("layer_types", "message"),
    [
        ([LINEAR, FULL, FULL], "3 entries.*4 layers"),
        ([LINEAR, FULL, SLIDING, FULL], r"layer_types\[2\].*'sliding_attention'.*'full_attention'"),
        ([LINEAR, FULL, "gated_delta_net", FULL], "gated_delta_net"),
    ],
)
def test_impossible_layers_are_refused(layer_types: list[str], message: str, tmp_path) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        HybridGDNConfig(text_config=teacher_config(), layer_types=layer_types)
    student_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    edited = {**json.loads(path.read_text()), "layer_types": layer_types}
    path.write_text(json.dumps(edited))
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        AutoConfig.from_pretrained(tmp_path)


def test_bad_convolution_sizes_are_refused() -> None:
    with pytest.raises(StrictDataclassClassValidationError, match="conv_kernel_size is -1"):
        HybridGDNConfig(text_config=teacher_config(), conv_kernel_size=-1)
    with pytest.raises(StrictDataclassFieldValidationError, match="conv_kernel_size"):
        HybridGDNConfig(text_config=teacher_config(), conv_kernel_size=2.5)


@pytest.mark.parametrize("size", [0, 1])
def test_no_convolution(size: int) -> None:
    model = HybridGDNForCausalLM(student_config(conv_kernel_size=size))
    assert not any("short_conv" in name for name in model.state_dict())


SETTINGS = {  # of the library or the family, not of the student, and another value than the teacher's
    "output_hidden_states": True,
    "output_attentions": True,
    "output_router_logits": True,
    "return_dict": False,
    "attention_dropout": 0.25,
    "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
    "rms_norm_eps": 1e-3,
    "use_cache": False,
    "router_aux_loss_coef": 0.5,
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("way", ["created", "loaded", "set"])
def test_the_teachers_settings_at_the_top_level_are_the_teachers(name: str, way: str, tmp_path) -> None:
    value, teacher = SETTINGS[name], teacher_config("qwen3_moe", attn_implementation="eager")
    assert getattr(teacher, name) != value
    if way == "created":
        config = HybridGDNConfig(text_config=teacher, **{name: value})
    elif way == "loaded":
        HybridGDNConfig(text_config=teacher).save_pretrained(tmp_path)
        config = AutoConfig.from_pretrained(tmp_path, attn_implementation="eager", **{name: value})
    else:
        config = HybridGDNConfig(text_config=teacher)
        setattr(config, name, value)
    assert getattr(config.text_config, name) == value == getattr(config, name)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    # Transformers saves no `output_attentions`, of any model.
    assert name == "output_attentions" or getattr(again.text_config, name) == value
    assert name not in vars(config)


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("output_hidden_states", "hidden_states"),
        ("output_attentions", "attentions"),
        ("output_router_logits", "router_logits"),
    ],
)
def test_outputs_asked_for_are_given(flag: str, field: str, tmp_path) -> None:
    ids = token_ids(1, 5)
    student("qwen3_moe").save_pretrained(tmp_path)
    load = lambda **more: HybridGDNForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", **more)  # noqa: E731
    plain, edited = load(), load()
    setattr(edited.config, flag, True)
    assert getattr(plain(ids), field, None) is None
    for output in (plain(ids, **{flag: True}), edited(ids), load(**{flag: True})(ids)):
        assert getattr(output, field) is not None
    setattr(edited.config, flag, False)
    assert getattr(edited(ids), field, None) is None


def test_dropout_of_the_teachers_attention_is_that_of_retained_layers(tmp_path) -> None:
    student("qwen3", linear=(1,)).save_pretrained(tmp_path)
    model = HybridGDNForCausalLM.from_pretrained(tmp_path, attention_dropout=0.5)
    assert model.model.layers[0].self_attn.attention_dropout == 0.5


def test_a_window_given_later_makes_retained_layers_sliding() -> None:
    config = student_config("mistral", linear=(1,), sliding_window=None)
    assert config.layer_types == [FULL, LINEAR, FULL, FULL]
    config.sliding_window = 3
    assert config.layer_types == [SLIDING, LINEAR, SLIDING, SLIDING]


def test_a_window_that_the_teacher_drops_when_loaded_is_dropped(tmp_path) -> None:
    config = student_config("qwen3_moe", linear=(1,))
    config.sliding_window = 3  # without use_sliding_window
    assert config.layer_types == [SLIDING, LINEAR, SLIDING, SLIDING]
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.sliding_window is None
    assert again.layer_types == [FULL, LINEAR, FULL, FULL]


def test_a_setting_that_nobody_has_is_an_error_to_read() -> None:
    config = student_config()
    assert not hasattr(config, "number_of_moons")
    with pytest.raises(AttributeError, match=r"number_of_moons.*nor has the teacher"):
        _ = config.number_of_moons


def test_rotary_settings_of_several_kinds_of_layers_stay_as_they_are(tmp_path: Path) -> None:
    """Releases from 5.16 on would put a common `rope_theta` beside them, and then refuse it."""
    teacher = teacher_config("gemma3_text")
    before = copy.deepcopy(teacher.rope_parameters)
    config = HybridGDNConfig(text_config=teacher)
    assert config.rope_parameters == before
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == before
