# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What vLLM keeps of a sequence for one recurrent layer, on one rank.

Of the convolution `[kernel_size - 1, channels]` (or turned, as VLLM_SSM_CONV_STATE_LAYOUT says) in the model's dtype,
of the recurrence `[H, V, K]` in float32.
"""

from typing import Any

import torch
from vllm.model_executor.layers.mamba.mamba_utils import (
    MambaStateDtypeCalculator,
    MambaStateShapeCalculator,
)

from .families import head_counts, mixer_form


def state_shapes(vllm_config: Any) -> tuple[tuple[int, ...], ...]:
    """Of the convolution and of the recurrence, for one sequence."""
    student = vllm_config.model_config.hf_config
    heads, kv_heads, head_dim = head_counts(student)
    ranks, kernel_size = vllm_config.parallel_config.tensor_parallel_size, mixer_form(student).kernel_size
    return MambaStateShapeCalculator.gated_delta_net_state_shape(
        ranks, kv_heads, heads, head_dim, head_dim, kernel_size
    )


def state_dtypes(vllm_config: Any) -> tuple[torch.dtype, ...]:
    """In the order of `state_shapes`."""
    model, cache = vllm_config.model_config, vllm_config.cache_config
    return MambaStateDtypeCalculator.gated_delta_net_state_dtype(
        model.dtype, cache.mamba_cache_dtype, cache.mamba_ssm_cache_dtype
    )
