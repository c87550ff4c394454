# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Output projection: the planted projection is found again; the prior is the teacher's, with the heads' scale."""

import copy

import pytest
import torch
import torch.nn.functional as F
from planted import planted_mixer, relative
from tiny_sizes import HEAD_DIM, HEADS

from hf_tc.calibration.output_projection import scaled_output_projection, solve_output_projection, value_scale
from hf_tc.calibration.ridge import LeastSquares
from hf_tc.calibration.solve_order import apply
from hf_tc.modeling.masks import RecurrentMask

SCALE = torch.tensor([1.0, 0.2, 5.0, 2.0])


def output_of(mixer, captured):
    return mixer(captured.attn_input, captured.position_embeddings, recurrent_mask=RecurrentMask())[0]


@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", {}), ("llama", {"attention_bias": True}), ("llama", {"output_norm": True}), ("gpt_neox", {})],
)
def test_planted_projection_is_found(family: str, changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LeastSquares.solve.__kwdefaults__, "prior_tokens", 1e-6)
    mixer, captured = planted_mixer(family, **changes)
    truth = copy.deepcopy(mixer)
    truth.o_proj.weight.copy_(torch.randn(truth.o_proj.weight.shape, generator=torch.Generator().manual_seed(3)))
    captured.teacher_output = output_of(truth, captured)
    solved = solve_output_projection(mixer, captured, SCALE)
    assert relative(solved["o_proj.weight"], truth.o_proj.weight) < 2e-3
    apply(mixer, solved)
    assert relative(output_of(mixer, captured), captured.teacher_output) < 1e-3


def test_prior_is_the_teachers_projection_with_each_head_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LeastSquares.solve.__kwdefaults__, "prior_tokens", 1e9)
    mixer, captured = planted_mixer()
    solved = solve_output_projection(mixer, captured, SCALE)["o_proj.weight"]
    for head in range(HEADS):
        columns = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        torch.testing.assert_close(
            solved[:, columns], mixer.o_proj.weight[:, columns] * SCALE[head], rtol=1e-3, atol=1e-3
        )


def test_scaled_projection_is_a_scaled_input() -> None:
    weight, x = torch.randn(3, 8), torch.randn(5, 8)
    scale = torch.tensor([2.0, -1.0])
    scaled_input = (x.view(5, 2, 4) * scale[:, None]).flatten(1)
    torch.testing.assert_close(F.linear(x, scaled_output_projection(weight, scale)), F.linear(scaled_input, weight))


def test_value_scale_is_the_size_of_each_heads_columns() -> None:
    weight = torch.randn(32, HEADS * HEAD_DIM)
    torch.testing.assert_close(
        value_scale(scaled_output_projection(weight, SCALE), weight, HEADS), SCALE.double(), rtol=1e-5, atol=0
    )
    assert bool(value_scale(weight, torch.zeros_like(weight), HEADS).isfinite().all())
