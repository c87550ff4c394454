# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What is read off an attention module's structure."""

from types import SimpleNamespace

import pytest
import torch
from tiny_sizes import SIZES_WITHOUT_HEAD_DIM
from torch import nn
from transformers import AutoConfig, AutoModel, GPT2Config, GPT2Model
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama
from transformers.models.phi import modeling_phi

from hf_tc.modeling.teacher_attention import (
    find_attention,
    find_decoder_layers,
    fused_projection,
    head_shape,
    output_projection,
    query_key_norms,
    rotary_function,
    split_fused_projection,
)

ONE_LAYER = {**SIZES_WITHOUT_HEAD_DIM, "num_hidden_layers": 1}


def attention_of(model_type: str, **fields) -> tuple[nn.Module, SimpleNamespace]:
    config = AutoConfig.for_model(model_type, **ONE_LAYER | fields)
    return find_attention(find_decoder_layers(AutoModel.from_config(config))[0])[1], config


@pytest.mark.parametrize(
    ("model_type", "fields", "name", "shape"),
    [
        ("llama", {}, "self_attn", (4, 2, 8)),
        ("qwen3", {"head_dim": 16}, "self_attn", (4, 2, 16)),
        ("phi3", {}, "self_attn", (4, 2, 8)),
        ("gpt_neox", {}, "attention", (4, 4, 8)),
        ("gemma2", {"head_dim": 4}, "self_attn", (4, 2, 4)),
    ],
)
def test_attention_and_its_heads_are_found(model_type, fields, name, shape):
    config = AutoConfig.for_model(model_type, **ONE_LAYER | fields)
    layer = find_decoder_layers(AutoModel.from_config(config))[0]
    found, attention = find_attention(layer)
    assert found == name
    assert head_shape(attention, config) == shape


def test_what_has_no_layers_or_no_attention_is_refused():
    gpt2 = GPT2Model(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="GPT2Model has no `layers`"):
        find_decoder_layers(gpt2)
    with pytest.raises(ValueError, match=r"No self-attention .*ln_1: LayerNorm"):
        find_attention(gpt2.h[0])
    with pytest.raises(ValueError, match="Linear has none of"):
        output_projection(nn.Linear(1, 1))


@pytest.mark.parametrize("model_type", ["phi3", "gpt_neox"])
def test_a_split_projection_gives_the_q_k_v_that_the_family_attends_with(model_type):
    attention, config = attention_of(model_type)
    shape = head_shape(attention, config)
    fused = fused_projection(attention)
    x = torch.randn(3, 32)
    q, k, v = (x @ part.T for part in split_fused_projection(fused.weight, attention, shape))
    rows = x @ fused.weight.T
    if model_type == "gpt_neox":  # as in its forward: heads first, then chunks
        expected = [part.flatten(1) for part in rows.view(3, 4, 24).chunk(3, dim=-1)]
    else:
        expected = [rows[:, :32], rows[:, 32:48], rows[:, 48:]]
    for actual, wanted in zip((q, k, v), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_norms_are_found_under_each_name_with_their_place():
    norms = [nn.LayerNorm(8) for _ in range(2)]

    def attention(*names: str) -> nn.Module:
        module = nn.Module()
        for name, norm in zip(names, norms, strict=True):
            setattr(module, name, norm)
        return module

    assert query_key_norms(attention("q_norm", "k_norm")) == (*norms, False)
    assert query_key_norms(attention("q_layernorm", "k_layernorm")) == (*norms, False)
    assert query_key_norms(attention("query_layernorm", "key_layernorm")) == (*norms, True)
    assert query_key_norms(nn.Module()) == (None, None, False)


def test_rotation_is_the_familys_own_and_absent_without_positions():
    attention, _ = attention_of("llama")
    assert rotary_function(attention) is modeling_llama.apply_rotary_pos_emb
    layers = AutoModel.from_config(
        AutoConfig.for_model("smollm3", **SIZES_WITHOUT_HEAD_DIM | {"num_hidden_layers": 4})
    ).layers
    assert [rotary_function(layer.self_attn) is None for layer in layers] == [False, False, False, True]


@pytest.mark.parametrize(("model_type", "module"), [("phi", modeling_phi), ("gpt_neox", modeling_gpt_neox)])
def test_partial_rotation_leaves_the_other_channels_alone(model_type, module):
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    attention, _ = attention_of(model_type, rope_parameters=rope)
    q, k = torch.randn(2, 1, 4, 5, 8).unbind(0)
    angle = torch.randn(1, 5, 4)
    rotated_q, rotated_k = rotary_function(attention)(q, k, angle.cos(), angle.sin())
    expected_q, expected_k = module.apply_rotary_pos_emb(q[..., :4], k[..., :4], angle.cos(), angle.sin())
    torch.testing.assert_close(rotated_q, torch.cat([expected_q, q[..., 4:]], dim=-1))
    torch.testing.assert_close(rotated_k, torch.cat([expected_k, k[..., 4:]], dim=-1))
