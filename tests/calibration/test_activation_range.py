# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The taps bring every head to the size asked for, at which SiLU is nearly the line that the solves take it for."""

from typing import Any

import pytest
import torch
from planted import output_of, planted_mixer, relative
from torch.nn import functional as F
from transformers import AutoConfig

from hf_tc.calibration.activation_range import SIZE, SLOPE, silu_slope, solve_activation_range
from hf_tc.calibration.recurrence_outputs import before_gate, recurrence_inputs
from hf_tc.calibration.solve_order import apply
from hf_tc.config import MixerConfig

QWEN3_5: dict[str, Any] = MixerConfig("qwen3_5").fields(AutoConfig.for_model("qwen3"))


@pytest.mark.parametrize("size", [SIZE, 1.0])
def test_every_head_has_the_size_asked_for(size: float) -> None:
    mixer, captured = planted_mixer("qwen3", **QWEN3_5)
    solved = solve_activation_range(mixer, captured, size)
    assert solved.keys() == {"short_conv.weight"}
    assert not solved["short_conv.weight"][1:].any()
    by_head = (mixer.project(captured.attn_input) * solved["short_conv.weight"][0]).unflatten(-1, (-1, mixer.head_dim))
    assert by_head.shape[2] == mixer.num_heads + 2 * mixer.num_kv_heads
    torch.testing.assert_close(by_head.square().mean((0, 1, 3)).sqrt(), torch.full(by_head.shape[2:3], size))


def test_slope_is_the_derivative() -> None:
    z = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(F.silu(z).sum(), z)
    torch.testing.assert_close(silu_slope(z.detach()), expected)
    assert silu_slope(torch.zeros(())) == SLOPE


def test_a_small_layer_does_what_it_would_do_without_activation() -> None:
    """What the output norm gives, smaller and smaller, comes near to that of the same layer without SiLU."""
    mixer, captured = planted_mixer("qwen3", **QWEN3_5, rms_norm_eps=1e-12)
    mixer.o_norm.eps = 1e-12
    mixer.short_conv.activated = False
    linear = before_gate(mixer, recurrence_inputs(mixer, captured, slice(None)))[0]
    mixer.short_conv.activated, distances = True, []
    for size in (1.0, 0.25, 0.0625):
        apply(mixer, solve_activation_range(mixer, captured, size))
        gated = before_gate(mixer, recurrence_inputs(mixer, captured, slice(None)))[0]
        distances.append(relative(gated, linear))
    assert output_of(mixer, captured).isfinite().all()
    assert distances[0] > 2 * distances[1] > 4 * distances[2]
    assert distances[2] < 0.1
