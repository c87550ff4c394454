# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Phase 2: minibatch fitting of one layer, never worse than it came."""

import copy

import pytest
import torch
from planted import captured_layer, fresh_mixer, plant_memory, random_blocks, tiny_teacher

from hf_tc.alignment import layerwise as alignment
from hf_tc.alignment.layerwise import align_layer, held_out_error
from hf_tc.alignment.relative_error import relative_error
from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.config import AlignmentConfig
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.masks import RecurrentMask

HALF_LIFE, BETA = torch.tensor([3.0, 8.0, 20.0, 50.0]), torch.tensor([0.1, 0.5, 0.3, 0.9])


def layer() -> tuple[GatedDeltaNet, CapturedAttention, CapturedAttention]:
    """A mixer, and 12 + 3 blocks of 24 tokens whose target is a mixer with other weights."""
    torch.manual_seed(0)  # new gates start at random
    teacher = tiny_teacher("qwen3")
    captured, held_out = (captured_layer(teacher, random_blocks(n, 24, seed)) for n, seed in ((12, 0), (3, 1)))
    truth = plant_memory(fresh_mixer(teacher), HALF_LIFE, BETA)
    mixer = copy.deepcopy(truth)
    generator = torch.Generator().manual_seed(2)
    for parameter in mixer.parameters():
        parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    for part in (captured, held_out):
        part.teacher_output = truth(part.attn_input, part.position_embeddings, recurrent_mask=RecurrentMask())[0]
    return mixer, captured, held_out


def snapshot(mixer: GatedDeltaNet) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in mixer.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_alignment_comes_closer_and_reports_the_error_it_reached() -> None:
    mixer, captured, held_out = layer()
    start = held_out_error(mixer, held_out)
    ticks = []
    error = align_layer(
        mixer, captured, held_out, AlignmentConfig(steps=60, batch_tokens=96), 0, on_step=lambda: ticks.append(1)
    )
    assert error < 0.5 * start
    assert held_out_error(mixer, held_out) == pytest.approx(error, rel=1e-6)
    assert len(ticks) == 60


def test_no_steps_return_the_start() -> None:
    mixer, captured, held_out = layer()
    before = snapshot(mixer)
    error = align_layer(mixer, captured, held_out, AlignmentConfig(steps=0), 0)
    assert same(snapshot(mixer), before)
    assert error == held_out_error(mixer, held_out)


def test_never_worse_than_it_came() -> None:
    mixer, captured, held_out = layer()
    before, start = snapshot(mixer), held_out_error(mixer, held_out)
    wild = AlignmentConfig(steps=5, gate_learning_rate=30.0, teacher_step=300.0)
    assert align_layer(mixer, captured, held_out, wild, 0) == start
    assert same(snapshot(mixer), before)


def test_fitting_what_is_not_held_out_is_not_kept() -> None:
    """Held-out blocks are as the mixer has them, the others are not: nothing fitted to those may stay."""
    mixer, captured, held_out = layer()
    with torch.no_grad():
        held_out.teacher_output = mixer(
            held_out.attn_input, held_out.position_embeddings, recurrent_mask=RecurrentMask()
        )[0]
    before = snapshot(mixer)
    align_layer(mixer, captured, held_out, AlignmentConfig(steps=20), 0)
    assert same(snapshot(mixer), before)


def test_the_best_weights_on_the_way_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    mixer, captured, held_out = layer()
    seen = []
    errors = iter([1.0, 0.7, 0.4, 0.9, 0.8, 0.6])

    def scripted(mixer: GatedDeltaNet, *args: object, **kwargs: object) -> float:
        seen.append(snapshot(mixer))
        return next(errors)

    monkeypatch.setattr(alignment, "held_out_error", scripted)
    monkeypatch.setattr(alignment, "HELD_OUT_CHECKS", 5)
    assert align_layer(mixer, captured, held_out, AlignmentConfig(steps=5), 0) == 0.4
    assert len(seen) == 6
    assert same(snapshot(mixer), seen[2])
    assert not same(seen[2], seen[3])


def test_the_last_step_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    mixer, captured, held_out = layer()
    errors = iter([1.0] + [2.0] * 10 + [0.5])
    monkeypatch.setattr(alignment, "held_out_error", lambda *args, **kwargs: next(errors))
    monkeypatch.setattr(alignment, "HELD_OUT_CHECKS", 10)
    assert align_layer(mixer, captured, held_out, AlignmentConfig(steps=21), 0) == 0.5


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    results = []
    for seed in (3, 3, 4):
        mixer, captured, held_out = layer()
        torch.manual_seed(seed + len(results))  # what else is drawn does not matter
        align_layer(mixer, captured, held_out, AlignmentConfig(steps=5, batch_tokens=48), seed)
        results.append(snapshot(mixer))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_minibatches_are_of_the_size_asked_for() -> None:
    mixer, captured, held_out = layer()
    sizes = []

    def record(module: GatedDeltaNet, args: tuple, output: tuple) -> None:
        if torch.is_grad_enabled():
            sizes.append(len(output[0]))

    mixer.register_forward_hook(record)
    for tokens, blocks in ((1, 1), (72, 3), (10**6, 12)):
        sizes.clear()
        align_layer(mixer, captured, held_out, AlignmentConfig(steps=2, batch_tokens=tokens), 0)
        assert sizes == [blocks, blocks]


def test_a_block_comes_again_only_after_all_others() -> None:
    captured = layer()[1]
    rows = alignment._minibatches(captured, AlignmentConfig(steps=8, batch_tokens=72), 0)
    assert rows.shape == (8, 3)
    for order in rows.view(2, 12):
        assert sorted(order.tolist()) == list(range(12))
    assert not torch.equal(rows[:4], rows[4:])


def test_all_parameters_learn() -> None:
    mixer, captured, held_out = layer()
    before = snapshot(mixer)
    assert not any(parameter.requires_grad for parameter in mixer.parameters())
    align_layer(mixer, captured, held_out, AlignmentConfig(steps=30), 0)
    unchanged = [name for name, value in mixer.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == []


def test_a_bfloat16_mixer_is_refused() -> None:
    mixer, captured, held_out = layer()
    mixer.o_proj.bfloat16()
    before = snapshot(mixer)
    with pytest.raises(ValueError, match="float32"):
        align_layer(mixer, captured, held_out, AlignmentConfig(steps=1), 0)
    assert same(snapshot(mixer), before)


def test_negative_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="alignment_steps is -1"):
        AlignmentConfig(steps=-1)


def test_held_out_error_is_that_of_all_blocks_together() -> None:
    mixer, captured, _ = layer()
    captured.teacher_output[0] *= 100  # blocks of different size do not weigh alike
    output = mixer(captured.attn_input, captured.position_embeddings, recurrent_mask=RecurrentMask())[0]
    expected = relative_error(output, captured.teacher_output).item()
    assert held_out_error(mixer, captured) == pytest.approx(expected, rel=1e-5)
