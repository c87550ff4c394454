# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The recurrent layer in vLLM: `hf_tc.modeling.gated_deltanet` over paged states, on the family's own projections.

What goes from token to token is one operator that vLLM's compiler does not look into, as its attention is; what is
before and after it is compiled with the rest of the model.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from vllm.compilation.breakable_cudagraph import eager_break_during_capture
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.linear import ColumnParallelLinear
from vllm.model_executor.layers.mamba.abstract import MambaBase
from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first
from vllm.utils.torch_utils import LayerNameType, _encode_layer_name, _resolve_layer_name, direct_register_custom_op
from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum

from hf_tc.modeling.decay import log_decay

from .families import head_counts, mixer_form
from .mixer_parameters import ConvolutionWeight, head_parameter
from .paged_batch import PagedBatch, PagedInputs, PagedStates, add_first_values
from .paged_states import state_dtypes, state_shapes


class RecurrentMixer(nn.Module, MambaBase):
    """Stands where the family's attention module was, and is called as it was.

    Args:
        attention: that module; its projections, q/k norms and rotation are adopted, not copied.
        layer_idx: index of the layer.
        vllm_config: of the student.
        prefix: the attention module's name in the model.
    """

    q_norm: Any
    k_norm: Any
    rotary_emb: Any
    kv_cache: tuple[torch.Tensor, torch.Tensor]  # set by vLLM: all states of the convolution, of the recurrence

    def __init__(self, attention: Any, layer_idx: int, vllm_config: Any, prefix: str) -> None:
        super().__init__()
        student = vllm_config.model_config.hf_config
        heads, kv_heads, self.head_dim = head_counts(student)
        form = mixer_form(student)
        self.vllm_config, self.prefix = vllm_config, prefix
        self.num_heads, self.num_kv_heads = attention.num_heads, attention.num_kv_heads  # of this rank
        self.qkv_proj, self.o_proj = attention.qkv_proj, attention.o_proj
        if not form.has_biases:
            self.qkv_proj.bias = self.o_proj.bias = None
        has_norms = form.has_query_key_norms
        self.q_norm = getattr(attention, "q_norm", None) if has_norms else None
        self.k_norm = getattr(attention, "k_norm", None) if has_norms else None
        rotates = form.rotates and layer_idx not in (student.nope_layers or ())
        self.rotary_emb = attention.rotary_emb if rotates else None

        hidden, inner, kv_inner = student.hidden_size, heads * self.head_dim, kv_heads * self.head_dim
        sizes = (inner, kv_inner, kv_inner)
        self.short_conv = ConvolutionWeight(sizes, form.kernel_size)
        self.activation = form.activation
        self.A_log, self.dt_bias = head_parameter(self.num_heads), head_parameter(self.num_heads)
        self.a_proj = ColumnParallelLinear(hidden, heads, bias=False, prefix=f"{prefix}.a_proj")
        self.b_proj = ColumnParallelLinear(hidden, heads, bias=form.has_biases, prefix=f"{prefix}.b_proj")
        self.g_proj = ColumnParallelLinear(
            hidden, inner, bias=form.has_biases, quant_config=vllm_config.quant_config, prefix=f"{prefix}.g_proj"
        )
        eps = form.output_norm_eps
        self.o_norm = None if eps is None else nn.RMSNorm(self.head_dim, eps=eps)
        own = self.num_heads * self.head_dim
        self.first_token_weight = head_parameter(own) if form.has_first_token_value else None
        vllm_config.compilation_config.static_forward_context[prefix] = self

    @property
    def mamba_type(self) -> Any:
        return MambaAttentionBackendEnum.GDN_ATTN

    def get_state_shape(self) -> tuple[tuple[int, ...], ...]:
        return state_shapes(self.vllm_config)

    def get_state_dtype(self) -> tuple[torch.dtype, ...]:
        return state_dtypes(self.vllm_config)

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Mixes `[T, C]` into `[T, C]`; positions `[T]`. What else a family hands to its attention is not read."""
        qkv, _ = self.qkv_proj(hidden_states)
        (a, _), (b, _), (gate, _) = (project(hidden_states) for project in (self.a_proj, self.b_proj, self.g_proj))
        output = hidden_states.new_zeros(len(hidden_states), self.num_heads, self.head_dim)
        torch.ops.vllm.hf_tc_gated_delta_net(qkv, a, b, positions, output, _encode_layer_name(self.prefix))
        if self.o_norm is not None:
            output = self.o_norm(output)
        mixed, _ = self.o_proj(output.flatten(1) * F.silu(gate))
        return mixed

    def recur(
        self, qkv: torch.Tensor, a: torch.Tensor, b: torch.Tensor, positions: torch.Tensor, batch: PagedBatch
    ) -> torch.Tensor:
        """The recurrence's output `[T, H, V]`; convolution and state go on."""
        core, (conv, recurrent) = self.core(qkv.device), self.kv_cache
        states = PagedStates(conv if is_conv_state_dim_first() else conv.transpose(-1, -2), recurrent)
        qkv = core.convolve(qkv, self.short_conv.weight, states, batch, self.activation)
        q, k, v = self._heads(qkv, positions)
        decay = log_decay(a, self.A_log, self.dt_bias)
        output = core.delta_rule(PagedInputs(q, k, v, decay, b.float().sigmoid()), states, batch)
        if self.first_token_weight is not None:
            add_first_values(output, v, self.first_token_weight, batch)
        return output

    def core(self, device: torch.device) -> Any:
        """`torch_core` on a CPU, `kernel_core` on a GPU."""
        if device.type == "cpu":
            from . import torch_core

            return torch_core
        from . import kernel_core

        return kernel_core

    def _heads(self, qkv: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k and v `[T, H, D]` as the family's attention has them: normed, rotated, K/V repeated."""
        inner, kv_inner = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        q, k, v = (x.unflatten(-1, (-1, self.head_dim)) for x in qkv.split([inner, kv_inner, kv_inner], dim=-1))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary_emb is not None:
            q, k = self.rotary_emb(positions, q.flatten(1), k.flatten(1))
            q, k = (x.unflatten(-1, (-1, self.head_dim)) for x in (q, k))
        groups = self.num_heads // self.num_kv_heads
        return q, k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)


@eager_break_during_capture
def hf_tc_gated_delta_net(
    qkv: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    positions: torch.Tensor,
    output: torch.Tensor,
    layer_name: LayerNameType,
) -> None:
    """Writes `RecurrentMixer.recur` of this step's tokens to `output`; nothing where vLLM only measures memory."""
    context = get_forward_context()
    mixer = context.no_compile_layers[_resolve_layer_name(layer_name)]
    batch = (context.attn_metadata or {}).get(mixer.prefix)
    if batch is None:
        if qkv.is_cuda:
            mixer.core(qkv.device).tune(qkv.device, qkv.dtype, mixer.num_heads, mixer.head_dim)
        return
    tokens = batch.num_actual_tokens
    output[:tokens] = mixer.recur(qkv[:tokens], a[:tokens], b[:tokens], positions[:tokens], batch)


direct_register_custom_op(op_name="hf_tc_gated_delta_net", op_func=hf_tc_gated_delta_net, mutates_args=["output"])
