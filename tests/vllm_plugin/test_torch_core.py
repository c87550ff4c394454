# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The recurrence over paged states gives what the student's own layer gives for each sequence alone."""

import pytest
import torch
from paged_steps import Part, dirty_states, paged_batch
from tiny_models import student

from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.masks import RecurrentMask
from hf_tc.modeling.plain_recurrence_inputs import heads
from hf_tc.vllm_plugin import torch_core
from hf_tc.vllm_plugin.paged_batch import PagedBatch, PagedInputs, PagedStates, add_first_values

HIDDEN = 32
LENGTHS = {1: 9, 2: 70, 4: 1, 5: 33}  # of the sequences, by the row of their states
ONE_BY_ONE = [[Part(slot, length, begins=True)] for slot, length in LENGTHS.items()]
ALL_AT_ONCE = [[Part(slot, length, begins=True) for slot, length in LENGTHS.items()]]
IN_CHUNKS = [
    [Part(2, 30, begins=True), Part(1, 8, begins=True)],
    [Part(1, 1), Part(2, 39), Part(4, 1, begins=True), Part(5, 20, begins=True)],
    [Part(2, 1), Part(5, 13)],
]
TOKEN_BY_TOKEN = [
    [Part(slot, 1, begins=step == 0) for slot, length in LENGTHS.items() if step < length] for step in range(70)
]


def mixer_of(**changes: object) -> GatedDeltaNet:
    mixer = student("qwen3", **changes).model.layers[0].self_attn
    assert isinstance(mixer, GatedDeltaNet)
    return mixer


def step(mixer: GatedDeltaNet, x: torch.Tensor, states: PagedStates, batch: PagedBatch) -> torch.Tensor:
    """One layer's step over tokens `[T, C]`, as the plugin's mixer takes it."""
    assert mixer.short_conv is not None
    projections = mixer.projections(x)
    taps = mixer.short_conv.weight.flip(0).t()
    qkv = torch_core.convolve(projections.qkv, taps, states, batch, None)
    q, k, v = (z[0] for z in heads(mixer, qkv[None], None))
    inputs = PagedInputs(q, k, v, mixer.log_decay(x), mixer.beta(x))
    output = torch_core.delta_rule(inputs, states, batch)
    if mixer.first_token_weight is not None:
        add_first_values(output, v, mixer.first_token_weight, batch)
    return mixer.o_proj(mixer.gated_output(projections.gate[None], output[None]))[0]


@torch.no_grad()
@pytest.mark.parametrize("steps", [ONE_BY_ONE, ALL_AT_ONCE, IN_CHUNKS, TOKEN_BY_TOKEN])
@pytest.mark.parametrize(
    "changes", [{}, {"conv_kernel_size": 2, "first_token_value": False}, {"output_norm": True}], ids=str
)
def test_any_order_of_steps_is_the_layer_on_each_sequence(steps: list[list[Part]], changes: dict[str, object]) -> None:
    mixer = mixer_of(recurrent_rope=False, **changes)
    assert mixer.short_conv is not None
    kernel_size, channels = mixer.short_conv.weight.shape
    text = {slot: torch.randn(length, HIDDEN) for slot, length in LENGTHS.items()}
    states = dirty_states(7, channels, kernel_size, mixer.num_heads, mixer.head_dim, text[1])
    read, written = dict.fromkeys(text, 0), {slot: [] for slot in text}
    for parts in steps:
        x = torch.cat([text[slot][read[slot] :][:tokens] for slot, tokens, _ in parts])
        outputs = step(mixer, x, states, paged_batch(parts)).split([part.tokens for part in parts])
        for (slot, tokens, _), output in zip(parts, outputs, strict=True):
            read[slot] += tokens
            written[slot].append(output)
    assert read == LENGTHS
    for slot, x in text.items():
        expected = mixer(x[None], None, recurrent_mask=RecurrentMask(None, None, None))[0][0]
        torch.testing.assert_close(torch.cat(written[slot]), expected, atol=2e-5, rtol=1e-4)
    for row in (0, 3, 6):  # nobody's
        assert bool(states.conv[row].eq(7).all())
        assert bool(states.recurrent[row].eq(7).all())


def test_activation_follows_the_convolution() -> None:
    states = dirty_states(2, 6, 3, 1, 2, torch.zeros(1))
    x, taps, batch = torch.randn(5, 6), torch.randn(6, 3), paged_batch([Part(1, 5, begins=True)])
    plain = torch_core.convolve(x, taps, states, batch, None)
    torch.testing.assert_close(plain[0], x[0] * taps[:, 2])
    torch.testing.assert_close(plain[2], x[0] * taps[:, 0] + x[1] * taps[:, 1] + x[2] * taps[:, 2])
    activated = torch_core.convolve(x, taps, states, batch, "silu")
    torch.testing.assert_close(activated, torch.nn.functional.silu(plain))
    torch.testing.assert_close(states.conv[1], x[3:].t())


def test_a_step_of_no_state_in_one_layout_is_that_of_the_other() -> None:
    x, taps, batch = torch.randn(4, 6), torch.randn(6, 4), paged_batch([Part(1, 4, begins=True)])
    for turned in (False, True):
        states = dirty_states(2, 6, 4, 1, 2, x, turned)
        torch_core.convolve(x, taps, states, batch, None)
        torch.testing.assert_close(states.conv[1], x[1:].t())
