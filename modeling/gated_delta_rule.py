# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The gated delta rule: one definition, three ways to compute it (the third: `fla_kernels`).

    S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T        o_t = S_t^T q_t / sqrt(K)

with alpha_t = exp(log_decay_t). Source: Gated Delta Networks (arXiv 2412.06464), section 3.

Shapes everywhere: q, k `[B, T, H, K]`, v `[B, T, H, V]`, log_decay, beta `[B, T, H]`, state `[B, H, K, V]`,
document_start `[B, T]` (True where a packed document begins: nothing crosses it). q and k come L2-normalised.
"""

import functools
import importlib.util
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from transformers.utils import logging

from .chunk_rule import ChunkMask, ChunkRule, read_wide_values
from .chunk_states import SOLVED_AT_ONCE
from .fla_kernels import fla_gated_delta_rule
from .kernel_checks import kernel_is_right
from .tf32 import tf32_products

logger = logging.get_logger(__name__)

CHUNK_SIZE = 64  # tokens solved together; the size of fla's kernels
SHORT_CHUNK = 32  # the same on CPUs, for heads no wider than that


def recurrent_gated_delta_rule(
    *,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor | None = None,
    document_start: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token by token, as the equation reads: the slow twin of the chunked form, and the decode step.

    Returns the output `[B, T, H, V]` in v's dtype and the final state `[B, H, K, V]` in float32 (float64 stays).
    """
    dtype, work = v.dtype, _work_dtype(v)
    q, k, v, log_decay, beta = (x.to(work) for x in (q, k, v, log_decay, beta))
    state = _initial_state(k, v, state)
    scale = q.shape[-1] ** -0.5
    outputs = []
    for t in range(q.shape[1]):
        k_t, v_t = k[:, t], v[:, t]  # [B, H, K], [B, H, V]
        decay = log_decay[:, t].exp()
        if document_start is not None:
            decay = decay.masked_fill(document_start[:, t, None], 0.0)
        state = state * decay[..., None, None]
        written = (v_t - _read(state, k_t)) * beta[:, t, :, None]
        state = state + k_t[..., None] * written[..., None, :]
        outputs.append(_read(state, q[:, t] * scale))
    return torch.stack(outputs, dim=1).to(dtype), state


def chunk_gated_delta_rule(
    *,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor | None = None,
    document_start: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chunk by chunk, see `chunk_rule`. Returns as `recurrent_gated_delta_rule`."""
    dtype, work, length = v.dtype, _work_dtype(v), q.shape[1]
    size = chunk_size(k)
    state = _initial_state(k, v, state).to(work)
    q, k, v = (to_chunks(x, size, work) for x in (q, k, v))  # [N, B, H, C, D]
    log_decay, beta = (to_chunks(x[..., None], size, work)[..., 0] for x in (log_decay, beta))  # [N, B, H, C]
    q = q * q.shape[-1] ** -0.5
    mask = chunk_mask(log_decay, document_start)
    training = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, log_decay, beta, state))
    inputs = (q, k, v, log_decay, beta, state, mask)
    # Of values with 8 or 11 bits, products need no more; a compiler takes its own settings.
    tf32 = dtype != work and q.is_cuda and not torch.compiler.is_compiling()
    with tf32_products() if tf32 else nullcontext():
        wide = v.shape[-1] > 2 * CHUNK_SIZE and not training
        recurrence_output, final = read_wide_values(*inputs) if wide else ChunkRule.apply(*inputs, tf32)
    return from_chunks(recurrence_output, length).to(dtype), final


def chunk_size(k: torch.Tensor) -> int:
    """Tokens of a chunk for keys `[B, T, H, K]`, all of them where there are fewer.

    A CPU, which waits for arithmetic, has less of it in short chunks of narrow heads; a GPU waits for what goes in
    order, chunk after chunk. On a CPU an odd number of tokens is filled up: `unit_lower_inverse` takes halves.
    """
    length, size = k.shape[1], CHUNK_SIZE
    if k.device.type == "cpu" and not torch.compiler.is_compiling():
        size = SHORT_CHUNK if k.shape[-1] <= SHORT_CHUNK else CHUNK_SIZE
        length = length if length <= SOLVED_AT_ONCE else -(-length // SOLVED_AT_ONCE) * SOLVED_AT_ONCE
    return min(size, length)


def chunk_mask(log_decay: torch.Tensor, document_start: torch.Tensor | None) -> ChunkMask:
    """What tokens of a chunk see of one another, for log_decay `[N, B, H, C]` and starts of documents `[B, T]`."""
    size = log_decay.shape[-1]
    future = torch.ones(size, size, dtype=torch.bool, device=log_decay.device).triu(1)
    visible = torch.zeros_like(future, dtype=log_decay.dtype).masked_fill(future, float("-inf"))
    if document_start is None:
        return ChunkMask(visible, *log_decay.new_ones(2, size))
    # Documents begun so far in the chunk: equal numbers see each other, 0 still sees the incoming state.
    begun = to_chunks(document_start[..., None, None].long(), size)[..., 0].cumsum(-1)  # [N, B, 1, C]
    visible = visible.masked_fill(begun[..., :, None] != begun[..., None, :], float("-inf"))
    return ChunkMask(visible, (begun == 0).to(log_decay), (begun == begun[..., -1:]).to(log_decay))


def gated_delta_rule(
    *,
    state: torch.Tensor | None = None,
    document_start: torch.Tensor | None = None,
    document_bounds: torch.Tensor | None = None,
    **inputs: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The fastest form that is right for these tensors, chosen at every call.

    Args:
        inputs: q, k, v, log_decay and beta.
        document_bounds: see `fla_gated_delta_rule`.
    """
    q, v = inputs["q"], inputs["v"]
    if q.is_cuda and not torch.compiler.is_compiling():
        training = torch.is_grad_enabled() and any(x.requires_grad for x in inputs.values())
        if fla_is_usable(q.device, v.dtype, q.shape[2], q.shape[-1], v.shape[-1], training):
            packing = {"document_start": document_start, "document_bounds": document_bounds, "state": state}
            return fla_gated_delta_rule(**inputs, **packing)  # type: ignore[arg-type]
    # Autocast would run the float32 products of these forms in bfloat16, and a state adds up what they lose.
    with torch.autocast(q.device.type, enabled=False):
        if q.shape[1] == 1:
            return recurrent_gated_delta_rule(**inputs, state=state, document_start=document_start)
        return chunk_gated_delta_rule(**inputs, state=state, document_start=document_start)


def _read(state: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """S^T k, `[B, H, V]`. Compiled, a sum becomes one kernel with what is around it; a matrix product does not."""
    if torch.compiler.is_compiling():
        return (state * key[..., None]).sum(-2)
    return torch.einsum("bhkv,bhk->bhv", state, key)


def _work_dtype(v: torch.Tensor) -> torch.dtype:
    return torch.float64 if v.dtype == torch.float64 else torch.float32


def _initial_state(k: torch.Tensor, v: torch.Tensor, state: torch.Tensor | None) -> torch.Tensor:
    if state is not None:
        return state.to(_work_dtype(v))
    return k.new_zeros(k.shape[0], k.shape[2], k.shape[3], v.shape[3], dtype=_work_dtype(v))


def to_chunks(x: torch.Tensor, size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`[B, T, H, D]` to `[N, B, H, C, D]`; the tail is filled with zeros (no decay, nothing written)."""
    if x.shape[1] % size:
        x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size))
    chunks = x.unflatten(1, (-1, size)).permute(1, 0, 3, 2, 4)
    # One copy, also where the dtype changes.
    return chunks.to(dtype or x.dtype, memory_format=torch.contiguous_format).contiguous()


def from_chunks(x: torch.Tensor, length: int) -> torch.Tensor:
    """The first tokens of `[N, B, H, C, D]`, `[B, T, H, D]`."""
    return x.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :length]


@functools.cache
def fla_is_usable(
    device: torch.device, dtype: torch.dtype, heads: int, key_dim: int, value_dim: int, training: bool
) -> bool:
    """Whether fla's kernels give the plain form's numbers here, see `kernel_checks`; said once if not."""
    if dtype == torch.float64:
        return False
    if importlib.util.find_spec("fla") is None:
        logger.warning(
            "Gated DeltaNet uses its slower torch form: flash-linear-attention is not installed. "
            "pip install flash-linear-attention"
        )
        return False
    generator = torch.Generator(device).manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator, device=device)
    length = 2 * CHUNK_SIZE + 1
    problem = dict(
        q=F.normalize(draw(1, length, heads, key_dim), dim=-1).to(dtype),
        k=F.normalize(draw(1, length, heads, key_dim), dim=-1).to(dtype),
        v=draw(1, length, heads, value_dim).to(dtype),
        log_decay=-F.softplus(draw(1, length, heads)),
        beta=draw(1, length, heads).sigmoid(),
    )

    def kernel(**problem: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return fla_gated_delta_rule(**problem)[:1]

    def plain(**problem: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return chunk_gated_delta_rule(**problem)[:1]

    return kernel_is_right("flash-linear-attention's gated delta rule", kernel, plain, problem, training)
