# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The gated delta rule by the Triton kernels of flash-linear-attention (fla), where they are installed and right."""

import functools
from typing import Any

import torch
import torch.nn.functional as F

Configs = list[tuple[int, int, dict[str, int]]]  # (num_warps, num_stages, block sizes)

# What fla's own tuning found best on H100s for heads of 64 and 128 channels. Compiling all that it would try takes
# minutes for the first layer of a process.
HOPPER_CONFIGS: dict[str, Configs] = {
    "chunk_local_cumsum_scalar_kernel": [(4, 3, {})],
    "chunk_gated_delta_rule_fwd_kkt_solve_kernel": [(1, 3, {"BK": 64})],
    "recompute_w_u_fwd_kernel": [(4, 3, {})],
    "chunk_gated_delta_rule_fwd_kernel_h_blockdim64": [(4, 3, {"BV": 32}), (4, 3, {"BV": 64})],
    "chunk_fwd_kernel_o": [(4, 3, {"BK": 64, "BV": 64})],
    "chunk_bwd_kernel_dv_local": [(4, 2, {})],
    "chunk_gated_delta_rule_bwd_kernel_dhu_blockdim64": [(4, 3, {"BV": 32})],
    "chunk_bwd_kernel_dqkwg": [(4, 3, {})],
    "prepare_wy_repr_bwd_kernel": [(4, 3, {})],
}
# Kernels that hold much of a head have shared memory for two stages of wider rows, for three of these at most: 128
# channels of 16 bits, 64 of 32. What does not fit in it, Triton's tuning passes over.
WIDEST_ROW = 256  # bytes
WIDE_HOPPER_CONFIGS: dict[str, Configs] = {
    "chunk_gated_delta_rule_fwd_kernel_h_blockdim64": [(4, 2, {"BV": 32}), (2, 2, {"BV": 32})],
    "chunk_gated_delta_rule_bwd_kernel_dhu_blockdim64": [(4, 2, {"BV": 32}), (2, 2, {"BV": 32})],
    "chunk_bwd_kernel_dqkwg": [(4, 3, {}), (4, 2, {}), (2, 2, {})],
}


def fla_gated_delta_rule(
    *,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor | None = None,
    document_start: torch.Tensor | None = None,
    document_bounds: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `gated_delta_rule`; packed rows become one row with cumulative document lengths.

    Args:
        document_bounds: `[D + 1]`, where the documents of the flattened batch begin, and its length, see
            `RecurrentMask`; worked out from `document_start` where it is not given, which waits for the GPU.
    """
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule as fla_chunk
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule as fla_step

    batch, length, heads, key_dim = k.shape
    tune_less(key_dim * q.element_size())
    inputs = dict(q=q, k=k.to(q.dtype), v=v.to(q.dtype), g=log_decay.float(), beta=beta.float())
    if document_start is None:
        if state is None:
            state = q.new_zeros(batch, heads, key_dim, v.shape[-1], dtype=torch.float32)
        rule = fla_step if length == 1 and not torch.is_grad_enabled() else fla_chunk
        return rule(**inputs, initial_state=state.float(), output_final_state=True)
    bounds = row_bounds(document_start) if document_bounds is None else document_bounds
    states = q.new_zeros(bounds.numel() - 1, heads, key_dim, v.shape[-1], dtype=torch.float32)
    row_starts = torch.arange(batch, device=bounds.device) * length
    if state is not None:  # rows whose first document continues the given state
        continued = state.float() * ~document_start[:, 0, None, None, None]
        states = states.index_copy(0, torch.searchsorted(bounds, row_starts), continued)
    flat = {name: x.flatten(0, 1)[None] for name, x in inputs.items()}
    recurrence_output, finals = fla_chunk(**flat, initial_state=states, output_final_state=True, cu_seqlens=bounds)
    last = torch.searchsorted(bounds, row_starts + length) - 1
    return recurrence_output[0].unflatten(0, (batch, length)), finals[last]


def row_bounds(document_start: torch.Tensor) -> torch.Tensor:
    """Where the documents of a flattened batch begin, and its length, `[D + 1]`; every row begins one."""
    starts = document_start.clone()
    starts[:, 0] = True
    return F.pad(starts.flatten().nonzero().squeeze(-1), (0, 1), value=starts.numel())


def tune_less(row_bytes: int) -> None:
    """On Hopper GPUs, leaves to fla's tuning only what is known to be best, for keys of that many bytes a head."""
    for tuner, narrow, wide in _hopper_tuners():
        tuner.configs = narrow if row_bytes <= WIDEST_ROW else wide


@functools.cache
def _hopper_tuners() -> list[tuple[Any, list[Any], list[Any]]]:
    """fla's autotuners, and what is left to each for narrow and for wide heads; none on other GPUs."""
    if torch.cuda.get_device_capability()[0] != 9:
        return []
    from fla.ops.common import chunk_delta_h, chunk_o
    from fla.ops.gated_delta_rule import chunk_fwd, wy_fast
    from fla.ops.utils import cumsum

    modules, found = (cumsum, chunk_fwd, wy_fast, chunk_delta_h, chunk_o), []
    for name, narrow in HOPPER_CONFIGS.items():
        for tuner in filter(None, (_tuner(getattr(module, name, None)) for module in modules)):
            chosen = (_chosen(tuner, wanted) for wanted in (narrow, WIDE_HOPPER_CONFIGS.get(name, narrow)))
            found.append((tuner, *chosen))
    return found


def _chosen(tuner: Any, wanted: Configs) -> list[Any]:
    """Those of its configurations, or all where it has none of them."""
    return [c for c in tuner.configs if (c.num_warps, c.num_stages, c.kwargs) in wanted] or tuner.configs


def _tuner(kernel: Any) -> Any:
    """The autotuner among the wrappers around a Triton kernel."""
    while kernel is not None and not hasattr(kernel, "configs"):
        kernel = getattr(kernel, "fn", None)
    return kernel
