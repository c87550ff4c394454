# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Students loaded in 8 and 4 bits compute what their rounded weights say, with gates unrounded."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import quanto_in_torch
import torch
from optional_packages import needs_extra
from tiny_models import student, token_ids
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, DynamicCache, QuantoConfig, TorchAoConfig

import hf_tc  # noqa: F401  registers the student's classes
from hf_tc.modeling import GatedDeltaNet, HybridGDNForCausalLM
from hf_tc.modeling.library_cache import cache_argument

HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
SIZES = dict(hidden_size=128, head_dim=32, intermediate_size=128)  # 4-bit kernels for CPUs want multiples of 32


def rounded_weight(module: nn.Module, bits: int) -> torch.Tensor:
    if bits == 8:
        weight = module.weight
        scale = module.state.SCB if weight.SCB is None else weight.SCB
        return weight.data.float() * scale.float()[:, None] / 127
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(module.weight.data, module.weight.quant_state).float()


@pytest.mark.skipif(not HAS_BITSANDBYTES, reason="needs bitsandbytes")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe"])
def test_logits_and_tokens_are_those_of_the_rounded_weights(family: str, bits: int, tmp_path) -> None:
    model, ids = student(family, (0, 2), **SIZES), token_ids(2, 12)
    model.save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    quantised = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config).eval()
    replaced = {
        n: m for n, m in quantised.named_modules() if isinstance(m, nn.Linear) and not m.weight.is_floating_point()
    }
    ends = {name.split(".")[-1] for name in replaced}
    assert {"q_proj", "o_proj", "g_proj"} <= ends
    assert not ends & {"a_proj", "b_proj", "lm_head"}

    rounded = HybridGDNForCausalLM.from_pretrained(tmp_path).eval().to(quantised.device)
    with torch.no_grad():
        for name, module in replaced.items():
            rounded.get_submodule(name).weight.copy_(rounded_weight(module, bits))
        found, expected = (m(ids.to(quantised.device)).logits.float() for m in (quantised, rounded))
        # Of most tokens: rounded activations send one or another to other experts.
        assert ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).median() < 0.2
        assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > 0.75
        tokens = quantised.generate(ids.to(quantised.device), max_new_tokens=5, do_sample=False)
        again = quantised(tokens[:, :-1]).logits[:, 11:].argmax(-1)
    assert (tokens[:, 12:] == again).float().mean() >= 0.8


@pytest.mark.skipif(HAS_BITSANDBYTES, reason="says how a machine without bitsandbytes answers")
@pytest.mark.parametrize("bits", [8, 4])
def test_without_bitsandbytes_it_is_refused_clearly(bits: int, tmp_path) -> None:
    student("llama").save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    with pytest.raises((ImportError, RuntimeError, ValueError), match=r"(?i)bitsandbytes"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)


def quanto(bits: int) -> Any:
    return QuantoConfig(weights=f"int{bits}")


def torchao(bits: int) -> Any:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig() if bits == 8 else Int8DynamicActivationInt8WeightConfig())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "quantiser",
    [
        pytest.param(quanto, marks=needs_extra("test", "optimum")),
        pytest.param(torchao, marks=needs_extra("test", "torchao")),
    ],
)
def test_no_quantiser_takes_the_gates(quantiser: Callable[[int], Any], bits: int, tmp_path, monkeypatch) -> None:
    if quantiser is quanto:
        quanto_in_torch.use_torch(monkeypatch)
    model, ids = student("qwen3", (0, 2), **SIZES), token_ids(2, 12)
    model.save_pretrained(tmp_path)
    quantised = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantiser(bits)).eval()
    before, after = model.model.layers[0].self_attn, quantised.model.layers[0].self_attn
    for gate in ("a_proj", "b_proj"):
        kept = getattr(after, gate)
        assert type(kept).__name__ == "GateProjection"
        assert torch.equal(kept.weight, getattr(before, gate).weight)
    taken = after.q_proj
    assert type(taken) is not nn.Linear or type(taken.weight) is not nn.Parameter
    found, expected = quantised(ids).logits, model(ids).logits
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < {8: 0.2, 4: 1.0}[bits]
    cache = DynamicCache()
    quantised(ids[:, :-1], **cache_argument(cache))
    last = quantised(ids[:, -1:], **cache_argument(cache)).logits[:, 0]
    # Some quantise activations by their largest value, which one token alone has not the same as the whole prompt.
    assert (last - found[:, -1]).norm() / found[:, -1].norm() < 0.2


def test_the_gates_are_no_linear_layers() -> None:
    """By which all quantisers of the library, those for GPUs too, choose what they replace."""
    mixers = [module for module in student().modules() if isinstance(module, GatedDeltaNet)]
    assert not any(isinstance(gate, nn.Linear) for mixer in mixers for gate in (mixer.a_proj, mixer.b_proj))
