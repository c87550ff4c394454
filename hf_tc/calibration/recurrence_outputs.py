# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the recurrent memory of a mixer answers on captured blocks, a few blocks at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.modeling.gated_delta_rule import chunk_gated_delta_rule, chunk_size, from_chunks, to_chunks
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.masks import RecurrentMask
from hf_tc.modeling.recurrence_inputs import RecurrenceInputs

BATCH_TOKENS = 8192  # tokens whose outputs exist at the same time
BATCH_VALUES_ON_GPU = 2**25  # those of BATCH_TOKENS in an 8B teacher; a smaller one's would leave the GPU waiting


def solved_at_once(inner: int, on_gpu: bool) -> int:
    """Tokens whose outputs, `inner` values each, exist at the same time."""
    return max(BATCH_TOKENS, BATCH_VALUES_ON_GPU // inner) if on_gpu else BATCH_TOKENS


def block_batches(captured: CapturedAttention) -> Iterator[slice]:
    """Slices of blocks, each of about as many tokens as are `solved_at_once`."""
    blocks, length = captured.attn_input.shape[:2]
    context = captured.teacher_context
    step = max(1, solved_at_once(context.shape[-1], context.device.type == "cuda") // length)
    return (slice(start, min(start + step, blocks)) for start in range(0, blocks, step))


def recurrence_inputs(mixer: GatedDeltaNet, captured: CapturedAttention, rows: slice) -> RecurrenceInputs:
    """q, k, v and gates of the mixer on some captured blocks."""
    return mixer.recurrence_inputs(captured.attn_input[rows], captured.position_embeddings, RecurrentMask())


def context_by_head(captured: CapturedAttention, rows: slice, head_dim: int) -> Tensor:
    """The teacher's context `[B, T, H, V]`."""
    return captured.teacher_context[rows].unflatten(-1, (-1, head_dim))


def before_gate(mixer: GatedDeltaNet, inputs: RecurrenceInputs) -> tuple[Tensor, Tensor]:
    """What the gate multiplies, `[B, T, H, V]`, and its ratio to the output o, `[B, T, H]` (1 without a norm)."""
    recurrence_output, _ = chunk_gated_delta_rule(**inputs._asdict())
    if mixer.o_norm is None:
        return recurrence_output, recurrence_output.new_ones(recurrence_output.shape[:-1])
    factor = torch.rsqrt(recurrence_output.square().mean(-1) + (mixer.o_norm.eps or 0.0))
    return recurrence_output * factor[..., None], factor


def norm_factor(mixer: GatedDeltaNet, inputs: RecurrenceInputs) -> Tensor:
    """The ratio of `before_gate` alone, `[B, T, H]`; without a norm no output is needed to know it."""
    return torch.ones_like(inputs.beta) if mixer.o_norm is None else before_gate(mixer, inputs)[1]


def writes(inputs: RecurrenceInputs) -> Tensor:
    """u_t of S_t = alpha_t S_{t-1} + k_t u_t^T, `[B, T, H, V]`: what each token really adds to the memory.

    Reading with k_t right after the write gives r_t = S_t^T k_t; for unit k_t, u_t = beta_t (v_t - r_t) / (1 - beta_t).
    """
    own, _ = chunk_gated_delta_rule(**inputs._replace(q=inputs.k * inputs.k.shape[-1] ** 0.5)._asdict())
    beta = inputs.beta[..., None].clamp_max(0.999)
    return beta * (inputs.v - own) / (1 - beta * inputs.k.square().sum(-1, keepdim=True))


class WrittenMemory(NamedTuple):
    """A memory given by its writes u, set up once and then read by any queries:

        o_t = sum_{i<=t} exp(G_t - G_i) (q_t.k_i) u_i / sqrt(K)         (G: running sum of log alpha)

    k `[N, B, H, C, K]` and u `[N, B, H, C, V]` by chunks; between `[N, B, H, C, C]` and from_start `[N, B, H, C]`, the
    decays inside a chunk and from its start; before `[N, B, H, K, V]`, the states before the chunks.
    """

    k: Tensor
    u: Tensor
    between: Tensor
    from_start: Tensor
    before: Tensor

    @classmethod
    def of(cls, *, k: Tensor, u: Tensor, log_decay: Tensor) -> "WrittenMemory":
        """k `[B, T, H, K]`, u `[B, T, H, V]`, log_decay `[B, T, H]`."""
        size = chunk_size(k)
        k, u = to_chunks(k, size), to_chunks(u, size)
        total = to_chunks(log_decay[..., None], size)[..., 0].cumsum(-1)
        future = torch.ones(size, size, dtype=torch.bool, device=k.device).triu(1)
        between = (total[..., :, None] - total[..., None, :]).masked_fill_(future, float("-inf")).exp_()
        added = (k * between[..., -1, :, None]).mT @ u
        state, before = torch.zeros_like(added[0]), []
        for added_n, across_n in zip(added, total[..., -1].exp()[..., None, None], strict=True):
            before.append(state)
            state = across_n * state + added_n
        return cls(k, u, between, total.exp(), torch.stack(before))

    def read(self, q: Tensor) -> Tensor:
        """The output `[B, T, H, V]` for q `[B, T, H, K]`, linear in q."""
        length = q.shape[1]
        q = to_chunks(q * q.shape[-1] ** -0.5, self.k.shape[3])
        inside = ((q @ self.k.mT) * self.between) @ self.u
        return from_chunks(inside + (q * self.from_start[..., None]) @ self.before, length)
