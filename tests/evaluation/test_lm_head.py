# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Backbone and head apart give the logits of the whole model, for every family's own head."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from tiny_causal_lms import tiny_config, tiny_llama
from tiny_sizes import VOCABULARY
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaForCausalLM,
    MistralConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_tc.evaluation.lm_head import BackboneThenHead, NotFiniteError, call_through_wrapper

INPUTS = {
    "input_ids": torch.arange(3, 23).view(2, 10),
    "attention_mask": torch.tensor([[1] * 10, [0] * 4 + [1] * 6]),
}
GPT2 = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "output_router_logits": True}


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(MistralConfig),
        tiny_config(Qwen2Config, tie_word_embeddings=True),
        tiny_config(Qwen3Config),
        tiny_config(Qwen3MoeConfig, **MOE),
        tiny_config(Gemma2Config, final_logit_softcapping=2.0),
        tiny_config(CohereConfig, logit_scale=0.25),
        tiny_config(GraniteConfig, logits_scaling=8.0),
        tiny_config(PhiConfig),  # a head with a bias
        GPT2,
    ],
    ids=lambda config: config.model_type,
)
def test_split_equals_the_whole_model(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    if config.model_type == "phi":
        nn.init.normal_(model.lm_head.bias)
    with caplog.at_level(logging.WARNING):
        parts = BackboneThenHead(model)
        expected = model(**INPUTS).logits
        actual = parts.logits(parts.hidden_states(INPUTS).flatten(0, 1)).view_as(expected)
    assert parts.is_split
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert "could not be split" not in caplog.text


@pytest.mark.parametrize("with_lora", [False, True])
def test_logits_of_a_bf16_model_are_those_of_its_numbers_in_fp32(with_lora: bool) -> None:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(tiny_config(Gemma2Config, final_logit_softcapping=2.0)).eval()
    hidden = torch.randn(6, 32).bfloat16()
    if with_lora:
        peft = pytest.importorskip("peft")
        # What enters B is rounded, as in every 16-bit network: exact numbers keep the comparison sharp.
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["lm_head"], r=1, init_lora_weights=False))
        nn.init.constant_(model.base_model.model.lm_head.lora_A["default"].weight, 0.0)
        model.base_model.model.lm_head.lora_A["default"].weight.data[0, 0] = 1.0
    parts, exact = BackboneThenHead(model.bfloat16()), BackboneThenHead(copy.deepcopy(model).float())
    logits = parts.logits(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact.logits(hidden.float()), rtol=1e-5, atol=1e-5)


def test_parameters_of_the_head_are_found() -> None:
    parts = BackboneThenHead(tiny_llama(tie_word_embeddings=True))
    hidden = torch.zeros(2, 3, 32)
    assert [id(x) for x in parts.lazy_logits(hidden).parameters] == [id(parts.model.get_input_embeddings().weight)]
    flattened = tiny_llama()
    flat = nn.Parameter(flattened.lm_head.weight.detach().flatten())
    del flattened.lm_head.weight
    flattened.lm_head.weight = flat.view(VOCABULARY, 32)  # a tensor with a history, as FSDP makes it
    flattened.register_parameter("flat", flat)
    (view,) = BackboneThenHead(flattened).lazy_logits(hidden).parameters
    assert view is flattened.lm_head.weight
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules=["lm_head", "q_proj"]))
    trained = [x for x in BackboneThenHead(model).lazy_logits(hidden).parameters if x.requires_grad]
    assert [tuple(x.shape) for x in trained] == [(8, 32), (VOCABULARY, 8)]


def test_model_is_left_as_it_was() -> None:
    model = tiny_llama()
    names, backbone = list(model.state_dict()), model.model
    model.train()
    parts = BackboneThenHead(model)
    parts.logits(torch.zeros(3, 32))
    assert list(model.state_dict()) == names
    assert model.model is backbone
    assert model.training


def test_backbone_comes_back_after_an_error() -> None:
    model = tiny_llama()
    parts, backbone = BackboneThenHead(model), model.model
    with pytest.raises(RuntimeError):
        parts.logits(torch.zeros(3, 31))
    assert model.model is backbone


class _ForwardUsesInputs(LlamaForCausalLM):
    """A family whose head depends on more than the hidden states: it must be run whole."""

    def forward(self, input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        outputs = super().forward(input_ids=input_ids, **kwargs)
        if input_ids is not None:
            outputs.logits = outputs.logits * (1 + input_ids[..., None])
        return outputs


@pytest.mark.parametrize("initializer_range", [0.2, 1e-4])  # large and tiny logits
def test_a_model_that_cannot_be_split_is_run_whole_and_says_so(
    initializer_range: float, caplog: pytest.LogCaptureFixture
) -> None:
    model = _ForwardUsesInputs(tiny_llama(initializer_range=initializer_range).config).eval()
    with caplog.at_level(logging.WARNING):
        parts = BackboneThenHead(model)
    assert "_ForwardUsesInputs could not be split" in caplog.text
    assert torch.equal(parts.logits(parts.hidden_states(INPUTS).flatten(0, 1)), model(**INPUTS).logits.flatten(0, 1))


def test_encoder_decoder_is_refused() -> None:
    config = T5Config(vocab_size=VOCABULARY, d_model=16, d_ff=16, d_kv=4, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder"):
        BackboneThenHead(T5ForConditionalGeneration(config))


def test_prompt_learning_is_refused() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_llama(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="virtual tokens"):
        BackboneThenHead(model)


def test_call_through_wrapper_runs_hooks_and_restores_forward() -> None:
    module = nn.Linear(2, 2)
    wrapper = nn.Sequential(module)
    calls: list[str] = []
    module.register_forward_hook(lambda *args: calls.append("hook"))

    def function(inputs: dict[str, int]) -> str:
        assert "forward" not in vars(module)
        return f"got {inputs['x']}"

    assert call_through_wrapper(wrapper, module, function, {"x": 3}) == "got 3"
    assert calls == ["hook"]
    assert "forward" not in vars(module)

    def failing(inputs: Any) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        call_through_wrapper(wrapper, module, failing, {})
    assert "forward" not in vars(module)

    own_forward = module.forward
    module.forward = own_forward
    call_through_wrapper(wrapper, module, lambda inputs: None, {})
    assert vars(module)["forward"] is own_forward


def test_a_model_whose_logits_are_not_finite_is_named() -> None:
    model = tiny_llama()
    model.lm_head.weight.data[3] = float("nan")
    with pytest.raises(NotFiniteError, match=r"LlamaForCausalLM .* infinite, first of all the output of its lm_head\."):
        BackboneThenHead(model)


def test_where_a_model_with_finite_weights_overflows_is_named() -> None:
    model = tiny_llama()
    for projection in (model.model.layers[1].mlp.up_proj, model.model.layers[1].mlp.down_proj):
        projection.weight.data *= 1e30
    with pytest.raises(NotFiniteError, match=r"first of all the output of its model\.layers\.1\.mlp\.down_proj\."):
        BackboneThenHead(model)
