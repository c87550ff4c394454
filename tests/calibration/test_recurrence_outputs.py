# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the memory answers and what is written to it, against the recurrence token by token."""

import pytest
import torch
from planted import captured_layer, output_of, planted_mixer, random_blocks, tiny_teacher
from tiny_sizes import HEAD_DIM
from torch import Tensor

from hf_tc.calibration import recurrence_outputs as recurrence_outputs
from hf_tc.calibration.recurrence_outputs import (
    WrittenMemory,
    before_gate,
    block_batches,
    context_by_head,
    recurrence_inputs,
    writes,
)

LENGTHS = [1, 63, 64, 65, 500]


def slow_attention(q: Tensor, k: Tensor, u: Tensor, log_decay: Tensor) -> Tensor:
    total = log_decay.cumsum(1)
    gap = total[:, :, None] - total[:, None]  # [B, T, I, H]
    causal = torch.ones(q.shape[1], q.shape[1]).tril()[None, :, :, None]
    weights = torch.einsum("bthk,bihk->btih", q, k) * (gap * causal).exp() * causal / q.shape[-1] ** 0.5
    return torch.einsum("btih,bihv->bthv", weights, u)


def read_at_once(q: Tensor, **written: Tensor) -> Tensor:
    return WrittenMemory.of(**written).read(q)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_written_memory_answers_with_its_sum(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    q, k, u = (torch.randn(2, length, 2, d, generator=generator, dtype=torch.float64) for d in (3, 3, 5))
    log_decay = -0.2 * torch.rand(2, length, 2, generator=generator, dtype=torch.float64)
    direction = torch.randn(2, length, 2, 5, generator=generator, dtype=torch.float64)
    results = []
    for attention in (read_at_once, slow_attention):
        leaves = {"q": q, "k": k, "u": u, "log_decay": log_decay}
        leaves = {name: x.clone().requires_grad_(True) for name, x in leaves.items()}
        output = attention(**leaves)
        results.append([output, *torch.autograd.grad((output * direction).sum(), list(leaves.values()))])
    assert results[0][0].shape == (2, length, 2, 5)
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [1, 64, 100])
def test_writes_rebuild_the_output(length: int) -> None:
    """S_t = alpha_t S_{t-1} + k_t u_t^T must be the delta rule's state: read with q it gives the mixer's output."""
    mixer, captured = planted_mixer()
    captured.attn_input = captured.attn_input[:, :length]
    cos, sin = captured.position_embeddings
    captured.position_embeddings = cos[:, :length], sin[:, :length]
    inputs = recurrence_inputs(mixer, captured, slice(0, 2))
    u = writes(inputs)
    state = torch.zeros(2, 4, HEAD_DIM, HEAD_DIM)
    for t in range(length):
        decayed = inputs.log_decay[:, t].exp()[..., None, None] * state
        held = torch.einsum("bhkv,bhk->bhv", decayed, inputs.k[:, t])
        written = inputs.beta[:, t, :, None] * (inputs.v[:, t] - held)
        torch.testing.assert_close(u[:, t], written, rtol=1e-3, atol=1e-4)
        state = decayed + inputs.k[:, t, ..., None] * written[..., None, :]
    rebuilt = read_at_once(inputs.q, k=inputs.k, u=u, log_decay=inputs.log_decay)
    torch.testing.assert_close(rebuilt, output_of(mixer, captured)[:2], rtol=1e-3, atol=1e-4)


def test_before_gate_is_what_the_mixer_gates() -> None:
    for output_norm in (False, True):
        mixer, captured = planted_mixer(output_norm=output_norm)
        inputs = recurrence_inputs(mixer, captured, slice(0, 3))
        gated, factor = before_gate(mixer, inputs)
        recurrence_output = output_of(mixer, captured)[:3]
        expected = recurrence_output if mixer.o_norm is None else mixer.o_norm(recurrence_output)
        torch.testing.assert_close(gated, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(recurrence_output * factor[..., None], gated, rtol=1e-4, atol=1e-5)
        assert bool((factor == 1).all()) == (not output_norm)


def test_batches_cover_all_blocks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = captured_layer(tiny_teacher(), random_blocks(5, 10))
    for tokens, sizes in ((1, [1] * 5), (20, [2, 2, 1]), (50, [5]), (999, [5])):
        monkeypatch.setattr(recurrence_outputs, "BATCH_TOKENS", tokens)
        batches = [list(range(5))[rows] for rows in block_batches(captured)]
        assert [len(batch) for batch in batches] == sizes
        assert [row for batch in batches for row in batch] == list(range(5))


def test_context_is_split_by_head() -> None:
    captured = captured_layer(tiny_teacher(), random_blocks(3, 10))
    context = context_by_head(captured, slice(1, 3), HEAD_DIM)
    assert context.shape == (2, 10, 4, HEAD_DIM)
    torch.testing.assert_close(context[:, :, 2], captured.teacher_context[1:, :, 2 * HEAD_DIM : 3 * HEAD_DIM])
