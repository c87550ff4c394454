# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Decay: a memory halves in as many tokens as was asked for, in the real mixer."""

import torch
from planted import captured_layer, fresh_mixer, plant_memory, random_blocks, tiny_teacher

from hf_tc.calibration.decay import SHORTEST_HALF_LIFE, dt_bias_of, half_life_candidates, log_decay_of
from hf_tc.modeling.gated_delta_rule import recurrent_gated_delta_rule


def test_mixer_decays_with_the_half_life_whatever_its_input() -> None:
    half_life = torch.tensor([0.5, 1.0, 37.5, 1e6])
    teacher = tiny_teacher()
    mixer = plant_memory(fresh_mixer(teacher), half_life, torch.full((4,), 0.5))
    captured = captured_layer(teacher, random_blocks(2, 20))
    for x in (captured.attn_input, 100 * captured.attn_input):
        expected = log_decay_of(half_life).expand(2, 20, 4)
        torch.testing.assert_close(mixer.log_decay(x), expected, rtol=1e-5, atol=0)


def test_memory_halves_in_d_tokens() -> None:
    half_life = torch.tensor([1.0, 4.0, 16.0])
    log_decay = log_decay_of(half_life)
    for d, decay in zip((1, 4, 16), log_decay, strict=True):
        shape = (1, d, 1)
        state = torch.full((1, 1, 2, 2), 3.0)
        nothing = {"q": torch.zeros(*shape, 2), "k": torch.zeros(*shape, 2), "v": torch.zeros(*shape, 2)}
        left = recurrent_gated_delta_rule(
            **nothing, log_decay=decay.expand(shape), beta=torch.zeros(shape), state=state
        )[1]
        torch.testing.assert_close(left, state / 2)


def test_bias_is_the_inverse_of_the_mixers_formula() -> None:
    half_life = torch.logspace(-0.5, 6, 40, dtype=torch.float64)
    back = -torch.nn.functional.softplus(dt_bias_of(half_life))
    torch.testing.assert_close(back, log_decay_of(half_life), rtol=1e-9, atol=0)


def test_candidates_surround_the_distance_and_have_a_floor() -> None:
    distance = torch.tensor([0.0, 10.0, 400.0])
    candidates = half_life_candidates(distance)
    assert candidates.shape[1:] == distance.shape
    assert bool((candidates[:, 0] == SHORTEST_HALF_LIFE).all())
    for head in (1, 2):
        assert (candidates[:, head] == distance[head]).any()
        assert candidates[:, head].min() < distance[head] < candidates[:, head].max()
    assert candidates[:, 2].min() < 4  # a head of which a sink makes the distance a hundred times too long
    assert bool((candidates.diff(dim=0) >= 0).all())
    torch.testing.assert_close(candidates[-6:, 2], 40 * candidates[-6:, 1])
