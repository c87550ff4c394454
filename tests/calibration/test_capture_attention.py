# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Walking a decoder layer by layer: the same hidden states as the model's own, and nothing left behind."""

import copy

import pytest
import torch
from family_checks import exists, family_config
from planted import captured_layer, fresh_mixer, random_blocks, relative, tiny_teacher
from torch import nn

from hf_tc.calibration.capture_attention import LayerStream
from hf_tc.calibration.solve_order import layer_statistics
from hf_tc.modeling.teacher_attention import find_attention
from hf_tc.teachers.families import REVIEWED_FAMILIES
from hf_tc.teachers.small_teacher import random_teacher

TEACHERS = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "gemma2": {"sliding_window": 5},
    "gemma3_text": {"sliding_window": 5},
    "gpt_neox": {"num_key_value_heads": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def hidden_states(backbone: nn.Module, blocks: torch.Tensor) -> list[torch.Tensor]:
    """As the model itself computes them: before the first layer, and after each but the last (that one is normed)."""
    with torch.no_grad():
        return list(backbone(input_ids=blocks, output_hidden_states=True, use_cache=False).hidden_states)


def outputs_of_attention(model: nn.Module, blocks: torch.Tensor, layer: int) -> torch.Tensor:
    found = []
    attention = find_attention(model.base_model.layers[layer])[1]
    handle = attention.register_forward_hook(lambda module, args, output: found.append(output[0]))
    with torch.no_grad():
        model.base_model(input_ids=blocks, use_cache=False)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("family", TEACHERS)
def test_stream_gives_the_models_own_states(family: str) -> None:
    teacher = tiny_teacher(family, **TEACHERS[family])
    blocks = random_blocks(5, 17)
    expected = hidden_states(teacher.base_model, blocks)
    stream = LayerStream(teacher.base_model, blocks, batch_size=2)
    assert [len(hidden) for hidden in stream.hidden] == [2, 2, 1]
    for layer in range(3):
        torch.testing.assert_close(torch.cat(stream.hidden), expected[layer], rtol=1e-5, atol=1e-5)
        if layer == 1:
            stream.advance_and_capture(layer)
        else:
            stream.advance(layer)
    normed = teacher.base_model.norm if hasattr(teacher.base_model, "norm") else teacher.base_model.final_layer_norm
    torch.testing.assert_close(normed(torch.cat(stream.hidden)), expected[3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", TEACHERS)
def test_capture_is_what_the_attention_read_and_wrote(family: str) -> None:
    teacher = tiny_teacher(family, **TEACHERS[family])
    blocks = random_blocks(3, 17)
    for layer in (0, 1):
        captured = captured_layer(teacher, blocks, layer)
        output = outputs_of_attention(teacher, blocks, layer)
        torch.testing.assert_close(captured.teacher_output, output, rtol=1e-5, atol=1e-5)
        attention = find_attention(teacher.base_model.layers[layer])[1]
        projection = attention.dense if family == "gpt_neox" else attention.o_proj
        torch.testing.assert_close(projection(captured.teacher_context), output, rtol=1e-5, atol=1e-5)
        normed = teacher.base_model.layers[layer].input_layernorm(hidden_states(teacher.base_model, blocks)[layer])
        torch.testing.assert_close(captured.attn_input, normed, rtol=1e-5, atol=1e-5)
        assert [x.shape[:2] for x in captured.position_embeddings] == [(1, 17)] * 2


def test_each_layer_keeps_the_rotation_it_was_given() -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    teacher = tiny_teacher("gemma3_text", layer_types=kinds, sliding_window=5)
    blocks, given = random_blocks(3, 17), {}
    for index, layer in enumerate(teacher.base_model.layers):
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs, index=index: given.update({index: kwargs["position_embeddings"]}),
            with_kwargs=True,
        )
    with torch.no_grad():
        teacher.base_model(input_ids=blocks, use_cache=False)
    given = dict(given)
    for index in range(3):
        for found, expected in zip(
            captured_layer(teacher, blocks, index).position_embeddings, given[index], strict=True
        ):
            assert torch.equal(found, expected[:1])
    assert not torch.equal(given[0][0], given[1][0])


@pytest.mark.parametrize("model_type", sorted(REVIEWED_FAMILIES))
def test_every_family_streams_and_its_statistics_are_those_of_its_layers(model_type: str) -> None:
    if not exists(model_type):
        pytest.skip(f"{model_type} is not in this Transformers")
    config = family_config(model_type)
    teacher = random_teacher(config)
    blocks = torch.randint(3, config.vocab_size, (3, 14), generator=torch.Generator().manual_seed(1))
    expected = hidden_states(teacher.base_model, blocks)
    hooks = hook_count(teacher)  # the library leaves some of its own for recorded hidden states
    stream = LayerStream(teacher.base_model, blocks, batch_size=2)
    for layer in range(2):
        torch.testing.assert_close(torch.cat(stream.hidden), expected[layer], rtol=1e-4, atol=1e-4)
        captured = stream.advance_and_capture(layer)
        output = outputs_of_attention(teacher, blocks, layer)
        assert relative(captured.teacher_output, output) < 1e-4
        mixer = fresh_mixer(teacher, layer)
        assert captured.teacher_context.shape == (3, 14, mixer.num_heads * mixer.head_dim)
        scaling = find_attention(teacher.base_model.layers[layer])[1].scaling
        statistics = layer_statistics(mixer, captured, scaling, None)
        assert 0 < statistics.mean_attention_distance.min() <= statistics.mean_attention_distance.max() < 13
    assert hook_count(teacher) == hooks


def test_nothing_is_left_after_success_or_failure() -> None:
    teacher = tiny_teacher()
    teacher.base_model.layers[1].register_forward_hook(lambda *args: None)
    before = hook_count(teacher)
    stream = LayerStream(teacher.base_model, random_blocks(3, 9), 2)
    stream.advance_and_capture(0)
    assert hook_count(teacher) == before == 1
    teacher.base_model.layers[1].mlp.forward = _fail
    with pytest.raises(ArithmeticError):
        stream.advance_and_capture(1)
    assert hook_count(teacher) == before
    with pytest.raises(ArithmeticError):
        LayerStream(teacher.base_model, random_blocks(3, 9), 2)
    assert hook_count(teacher) == before
    teacher.base_model.embed_tokens.forward = _fail
    with pytest.raises(ArithmeticError):
        LayerStream(teacher.base_model, random_blocks(3, 9), 2)
    assert hook_count(teacher) == before


def _fail(*args: object, **kwargs: object) -> None:
    raise ArithmeticError


def test_capture_is_float32_and_needs_no_gradient() -> None:
    teacher = copy.deepcopy(tiny_teacher()).bfloat16()
    captured = captured_layer(teacher, random_blocks(2, 9))
    for tensor in (captured.attn_input, captured.teacher_context, captured.teacher_output):
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad


def test_backbone_that_never_calls_its_first_layer_is_refused() -> None:
    teacher = tiny_teacher()
    teacher.base_model.forward = lambda **kwargs: None
    with pytest.raises(RuntimeError, match="cannot be calibrated layer by layer"):
        LayerStream(teacher.base_model, random_blocks(1, 9), 2)


def test_the_first_blocks_are_those_of_a_shorter_capture() -> None:
    teacher, blocks = tiny_teacher("llama"), random_blocks(5, 12, 0)
    whole, short = captured_layer(teacher, blocks), captured_layer(teacher, blocks[:2])
    host = LayerStream(teacher.base_model, blocks, 2, in_host_memory=True).advance_and_capture(0).first(2)
    for name in ("attn_input", "teacher_context", "teacher_output"):
        wanted = getattr(short, name)
        assert torch.allclose(getattr(whole.first(2), name), wanted, atol=1e-6)
        assert len(getattr(host, name)) == 2
    assert host.in_host_memory
