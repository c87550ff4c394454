# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The student's configuration: what it carries, what it forwards, what it refuses."""

import json

import pytest
import torch
from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from tiny_models import FAMILIES, student_config, teacher_config
from transformers import AutoConfig

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
