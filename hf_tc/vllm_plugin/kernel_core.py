# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The recurrence over paged states on vLLM's own kernels, for GPUs; `torch_core` has the same two functions in torch.

The kernels are those of vLLM's Gated DeltaNet models: its causal convolution, and its copy of flash-linear-attention.
A step of one token a sequence waits for nothing on the host, so that a CUDA graph can hold it.
"""

import functools

import torch
from vllm.model_executor.layers.mamba.ops.causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from vllm.third_party.flash_linear_attention.ops.chunk import chunk_gated_delta_rule
from vllm.third_party.flash_linear_attention.ops.fused_recurrent import fused_recurrent_gated_delta_rule

from hf_tc.modeling.gated_delta_rule import CHUNK_SIZE

from .paged_batch import PagedBatch, PagedInputs, PagedStates


def convolve(
    qkv: torch.Tensor, weight: torch.Tensor, states: PagedStates, batch: PagedBatch, activation: str | None
) -> torch.Tensor:
    """As `torch_core.convolve`."""
    slots = batch.non_spec_state_indices_tensor
    if batch.num_prefills == 0:
        own = qkv.clone()  # it writes to where it reads
        return causal_conv1d_update(own, states.conv, weight, None, activation, conv_state_indices=slots[: len(qkv)])
    return causal_conv1d_fn(
        qkv.t(),
        weight,
        None,
        activation=activation,
        conv_states=states.conv,
        has_initial_state=batch.has_initial_state,
        cache_indices=slots,
        query_start_loc=batch.non_spec_query_start_loc,
        metadata=None if batch.nums_dict is None else batch,
    ).t()


def delta_rule(inputs: PagedInputs, states: PagedStates, batch: PagedBatch) -> torch.Tensor:
    """As `torch_core.delta_rule`."""
    decodes = batch.num_decodes
    if batch.num_prefills == 0:
        return _one_token_each(inputs, states, batch)
    if decodes == 0:
        return _many_tokens_each(inputs, states, batch)
    decoded = _one_token_each(PagedInputs(*(x[:decodes] for x in inputs)), states, batch)
    read = _many_tokens_each(PagedInputs(*(x[decodes:] for x in inputs)), states, batch)
    return torch.cat([decoded, read])


def _one_token_each(inputs: PagedInputs, states: PagedStates, batch: PagedBatch) -> torch.Tensor:
    q, k, v, log_decay, beta = (x[None] for x in inputs)
    output, _ = fused_recurrent_gated_delta_rule(
        q=q,
        k=k,
        v=v,
        g=log_decay,
        beta=beta,
        initial_state=states.recurrent,
        inplace_final_state=True,
        cu_seqlens=batch.non_spec_query_start_loc[: batch.num_decodes + 1],
        ssm_state_indices=batch.non_spec_state_indices_tensor,
        use_qk_l2norm_in_kernel=True,
    )
    return output[0]


def _many_tokens_each(inputs: PagedInputs, states: PagedStates, batch: PagedBatch) -> torch.Tensor:
    slots, known = batch.prefill_state_indices, batch.prefill_has_initial_state
    assert slots is not None
    assert known is not None
    state = states.recurrent[slots.long()].masked_fill(~known[:, None, None, None], 0.0)
    q, k, v, log_decay, beta = (x[None] for x in inputs)
    output, state = chunk_gated_delta_rule(
        q=q,
        k=k,
        v=v,
        g=log_decay,
        beta=beta,
        initial_state=state,
        output_final_state=True,
        cu_seqlens=batch.prefill_query_start_loc,
        chunk_indices=batch.chunk_indices,
        chunk_offsets=batch.chunk_offsets,
        use_qk_l2norm_in_kernel=True,
    )
    states.recurrent[slots.long()] = state.to(states.recurrent.dtype)
    return output[0]


@functools.cache
def tune(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int) -> None:
    """Runs what Triton tunes once, while memory is free: vLLM asks for this before it gives the rest to the caches."""
    ends = torch.tensor([0, CHUNK_SIZE], dtype=torch.int32, device=device)
    slots, known = torch.ones(1, dtype=torch.int32, device=device), torch.zeros(1, dtype=torch.bool, device=device)
    q, k, v = torch.randn(3, CHUNK_SIZE, heads, head_dim, dtype=dtype, device=device)
    decay, beta = -torch.ones(CHUNK_SIZE, heads, device=device), torch.ones(CHUNK_SIZE, heads, device=device)
    states = PagedStates(q, torch.zeros(2, heads, head_dim, head_dim, device=device))
    delta_rule(PagedInputs(q, k, v, decay, beta), states, PagedBatch(0, 1, ends, slots, known, ends, slots, known))
