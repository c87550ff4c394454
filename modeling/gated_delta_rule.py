# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The gated delta rule: one definition, three ways to compute it (the third: `fla_kernels`).

    S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T        o_t = S_t^T q_t / sqrt(K)

with alpha_t = exp(log_decay_t). Source: Gated Delta Networks (arXiv 2412.06464), section 3.

Shapes everywhere: q, k `[B, T, H, K]`, v `[B, T, H, V]`, log_decay, beta `[B, T, H]`, state `[B, H, K, V]`,
document_start `[B, T]` (True where a packed document begins: nothing crosses it). q and k come L2-normalised.
"""

import functools
import importlib.util

import torch
import torch.nn.functional as F
from transformers.utils import logging

from .chunk_states import states_by_writes, states_in_one_product
from .fla_kernels import fla_gated_delta_rule
from .kernel_checks import kernel_is_right

logger = logging.get_logger(__name__)

CHUNK_SIZE = 64  # tokens solved together; the size of fla's kernels


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

    Returns the read-out `[B, T, H, V]` in v's dtype and the final state `[B, H, K, V]` in float32 (float64 stays).
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
    """Chunk by chunk. With S_t = alpha_t S_{t-1} + k_t u_t^T and G the cumulative log decay inside a chunk,

        (I + A) U = beta V - beta exp(G) K S_0,     A_ti = beta_t exp(G_t - G_i) k_t.k_i  for i < t
        o_t = exp(G_t) S_0^T q_t + sum_{i<=t} exp(G_t - G_i) (q_t.k_i) u_i

    so that all chunks are solved at once, and read at once when the states between them are known (`chunk_states`).
    Returns as `recurrent_gated_delta_rule`.
    """
    dtype, work, length = v.dtype, _work_dtype(v), q.shape[1]
    size = min(CHUNK_SIZE, length)
    state = _initial_state(k, v, state).to(work)
    q, k, v = (to_chunks(x.to(work), size) for x in (q, k, v))  # [B, H, N, C, D]
    log_decay, beta = (to_chunks(x.to(work)[..., None], size)[..., 0] for x in (log_decay, beta))  # [B, H, N, C]
    q = q * q.shape[-1] ** -0.5

    cumulative = log_decay.cumsum(-1)
    causal = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
    keep_in = keep_out = torch.ones((), dtype=torch.bool, device=q.device)
    if document_start is not None:
        # Documents begun so far in the chunk: equal numbers see each other, 0 still sees the incoming state.
        begun = to_chunks(document_start[..., None, None].long(), size)[..., 0].cumsum(-1)  # [B, 1, N, C]
        keep_in, keep_out = begun == 0, begun == begun[..., -1:]
        causal = causal & (begun[..., :, None] == begun[..., None, :])
    # Masked before the exponential: above the diagonal the difference is positive and would overflow.
    between = (cumulative[..., :, None] - cumulative[..., None, :]).masked_fill(~causal, float("-inf")).exp()
    from_start = cumulative.exp() * keep_in  # decay from the chunk's start to each token
    to_end = (cumulative[..., -1:] - cumulative).exp() * keep_out  # decay from each token to the chunk's end

    system = (k @ k.transpose(-1, -2)) * between * beta[..., None]
    right_side = torch.cat([v * beta[..., None], k * (beta * from_start)[..., None]], dim=-1)
    # unitriangular: the diagonal is read as 1, the upper triangle is not read.
    solved = torch.linalg.solve_triangular(system, right_side, upper=False, unitriangular=True)
    own_writes, state_writes = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    k_out = (k * to_end[..., None]).transpose(-1, -2)
    run_chunks = states_in_one_product if state.is_cuda else states_by_writes
    states, writes, final = run_chunks(state, own_writes, state_writes, from_start[..., -1, None, None], k_out)
    scores = (q @ k.transpose(-1, -2)) * between
    recurrence_output = (q * from_start[..., None]) @ states + scores @ writes
    return recurrence_output.flatten(2, 3)[:, :, :length].transpose(1, 2).to(dtype), final


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


def to_chunks(x: torch.Tensor, size: int) -> torch.Tensor:
    """`[B, T, H, D]` to `[B, H, N, C, D]`; the tail is filled with zeros (no decay, nothing written)."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size))
    return x.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)


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
