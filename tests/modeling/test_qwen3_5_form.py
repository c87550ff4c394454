# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Recurrent layers of the form that Qwen3.5 has, held against the library's own layer of that architecture."""

from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from test_gated_delta_rule import relative_error
from tiny_models import packed_row, pad_rows, student, token_ids
from torch import Tensor
from transformers import AutoConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from hf_tc.config import MixerConfig
from hf_tc.export.qwen3_5_weights import recurrent_layer_weights
from hf_tc.modeling import GatedDeltaNet, HybridGDNConfig
from hf_tc.modeling.library_cache import cache_argument, cache_of
from hf_tc.modeling.masks import RecurrentMask
from hf_tc.teachers.new_student import mixer_of

QWEN3_5: dict[str, Any] = MixerConfig("qwen3_5").fields(AutoConfig.for_model("qwen3"))
FAMILIES = ["qwen3", "qwen2", "llama"]  # q/k norms, biases, neither


def form_student(family: str = "qwen3", linear: tuple[int, ...] = (0, 2), **changes: Any) -> Any:
    return student(family, linear, **QWEN3_5, **changes)


def librarys_layer(mixer: GatedDeltaNet, hidden: int) -> Qwen3_5GatedDeltaNet:
    """The same layer in Transformers' Qwen3.5."""
    heads, size = mixer.num_heads, mixer.head_dim
    config = AutoConfig.for_model(
        "qwen3_5_text", hidden_size=hidden, num_hidden_layers=1, layer_types=["linear_attention"], hidden_act="silu",
        linear_num_key_heads=heads, linear_num_value_heads=heads, linear_key_head_dim=size, linear_value_head_dim=size,
        linear_conv_kernel_dim=mixer.short_conv.kernel_size, rms_norm_eps=mixer.o_norm.eps,
    )  # fmt: skip
    layer = Qwen3_5GatedDeltaNet(config, 0)
    weights = recurrent_layer_weights(mixer.state_dict(), heads // mixer.num_kv_heads, size)
    layer.load_state_dict({name: weight.clone() for name, weight in weights.items()})
    return layer


@pytest.mark.parametrize("length", [1, 63, 64, 65, 500])
def test_outputs_and_gradients_are_those_of_the_librarys_layer(length: int) -> None:
    mixer = mixer_of(form_student(), 0)
    x = torch.randn(2, length, mixer.q_proj.in_features, generator=torch.Generator().manual_seed(length))
    twin = librarys_layer(mixer, x.shape[-1])
    ours, theirs = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    output, expected = mixer(ours, recurrent_mask=RecurrentMask())[0], twin(theirs)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (output * direction).sum().backward()
    (expected * direction).sum().backward()
    assert relative_error(output, expected) < 1e-5
    assert relative_error(ours.grad, theirs.grad) < 1e-4
    groups, size = mixer.num_heads // mixer.num_kv_heads, mixer.head_dim
    k_rows = twin.in_proj_qkv.weight.grad.unflatten(0, (3, -1, size))[1]  # of repeated heads: the sum is ours
    of_queries = mixer.num_heads * size
    gradients = {
        "g_proj": (mixer.g_proj.weight, twin.in_proj_z.weight.grad),
        "a_proj": (mixer.a_proj.weight, twin.in_proj_a.weight.grad),
        "b_proj": (mixer.b_proj.weight, twin.in_proj_b.weight.grad),
        "o_proj": (mixer.o_proj.weight, twin.out_proj.weight.grad),
        "k_proj": (mixer.k_proj.weight, k_rows.unflatten(0, (-1, groups)).sum(1).flatten(0, 1)),
        "q_proj": (mixer.q_proj.weight, twin.in_proj_qkv.weight.grad[:of_queries]),
        "A_log": (mixer.A_log, twin.A_log.grad),
        "o_norm": (mixer.o_norm.weight, twin.norm.weight.grad),
    }
    for name, (parameter, wanted) in gradients.items():  # that of a decay is 0 where there is one token
        assert (parameter.grad - wanted).norm() <= 1e-4 * wanted.norm(), name
    taps = twin.conv1d.weight.grad[:of_queries, 0].flip(1).T
    assert relative_error(mixer.short_conv.weight.grad[:, :of_queries], taps) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_form_has_no_norms_of_q_and_k_no_biases_and_no_rotation(family: str) -> None:
    mixer = mixer_of(form_student(family), 0)
    names = {name for name, _ in mixer.named_parameters()}
    assert names == {
        "A_log", "dt_bias", "short_conv.weight", "o_norm.weight", *(f"{x}_proj.weight" for x in "abgqkvo")
    }  # fmt: skip
    assert mixer.short_conv.activated
    x = torch.randn(1, 9, mixer.q_proj.in_features)
    angles = torch.randn(1, 9, mixer.head_dim)
    rotated = mixer(x, (angles.cos(), angles.sin()), recurrent_mask=RecurrentMask())[0]
    assert torch.equal(rotated, mixer(x, None, recurrent_mask=RecurrentMask())[0])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cache_padding_packing_and_slabs_give_the_same_numbers(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = form_student(family, (0, 1, 2, 3))
    rows = [token_ids(1, 30)[0], token_ids(1, 11, seed=2)[0]]
    alone = [model(row[None]).logits[0] for row in rows]
    step = model(rows[0][None, :20], use_cache=True)
    logits: list[Tensor] = [step.logits]
    for t in range(20, 30):
        step = model(rows[0][None, t : t + 1], use_cache=True, **cache_argument(cache_of(step)))
        logits.append(step.logits)
    torch.testing.assert_close(torch.cat(logits, 1)[0], alone[0], rtol=1e-4, atol=1e-4)
    ids, mask = pad_rows(rows, [0, 19], 30)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    padded = model(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(padded[1, 19:], alone[1], rtol=1e-4, atol=1e-4)
    packed = model(**packed_row(rows)).logits[0]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr("hf_tc.modeling.gated_deltanet.SLAB_TOKENS", 64)
    long = token_ids(1, 120)
    in_slabs = model(long).logits
    monkeypatch.undo()
    torch.testing.assert_close(in_slabs, model(long).logits, rtol=1e-4, atol=1e-4)


def test_greedy_tokens_do_not_depend_on_the_cache_or_its_kind() -> None:
    model, ids = form_student(), token_ids(1, 7)
    options = dict(max_new_tokens=12, do_sample=False, pad_token_id=0)
    plain = model.generate(ids, use_cache=False, **options)
    assert torch.equal(model.generate(ids, **options), plain)
    assert torch.equal(model.generate(ids, cache_implementation="static", **options), plain)
    assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=3, **options), plain)


def test_a_student_of_the_form_is_loaded_as_it_was_saved(tmp_path: Any) -> None:
    model, ids = form_student(), token_ids(1, 9)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    fields = ("conv_activation", "recurrent_bias", "recurrent_qk_norm", "output_norm_eps")
    assert [getattr(loaded.config, name) for name in fields] == ["silu", False, False, 1e-6]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_configurations_without_these_fields_mean_what_they_meant() -> None:
    config = HybridGDNConfig(text_config=AutoConfig.for_model("qwen3"))
    fields = ("conv_activation", "recurrent_bias", "recurrent_qk_norm", "output_norm_eps")
    assert [getattr(config, name) for name in fields] == [None, True, True, 1e-5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conv_activation": "gelu"}, "conv_activation is 'gelu'; it must be None or 'silu'"),
        ({"conv_activation": "silu", "conv_kernel_size": 0}, "without a convolution of 2 or more nothing is activated"),
    ],
)
def test_an_activation_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        HybridGDNConfig(text_config=AutoConfig.for_model("qwen3"), **fields)
