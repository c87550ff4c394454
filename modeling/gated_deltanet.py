# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The recurrent mixer that stands where the teacher had softmax attention: Gated DeltaNet on the teacher's projections.

    q, k, v   = teacher's projections, biases, q/k norms and RoPE; short convolution; L2 norm on q and k
    log_decay = -exp(A_log) * softplus(a_proj x + dt_bias)                 per query head, in float32
    beta      = sigmoid(b_proj x)                                          write gate, per query head
    o         = gated delta rule(q, k, v, log_decay, beta)                 one state per query head
    y         = o_proj( norm(o) * SiLU(g_proj x) )                         output gate; norm: RMSNorm or none

Source: Gated Delta Networks (arXiv 2412.06464), section 3.4; Taylor-Calibrate (arXiv 2606.16429), section 3.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers.cache_utils import Cache

from .cache import GDNCacheLayer, recurrent_layer
from .configuration_hybrid_gdn import HybridGDNConfig
from .decay import log_decay
from .gate_projection import GateProjection, check_one_dtype
from .gated_delta_rule import gated_delta_rule
from .library_cache import cache_in_layer
from .masks import RecurrentMask
from .short_convolution import ShortConvolution, pad_left
from .teacher_attention import (
    fused_projection,
    head_shape,
    output_projection,
    projection,
    query_key_norms,
    rotary_function,
)
from .tensor_parallel import HeadShard, find_head_shard

L2_EPS = 1e-6


class RecurrenceInputs(NamedTuple):
    """What the gated delta rule reads; per query head. q, k `[B, T, H, K]`, v `[B, T, H, V]`, the rest `[B, T, H]`."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    log_decay: torch.Tensor
    beta: torch.Tensor


class HeadwiseRMSNorm(nn.Module):
    """RMSNorm over the value dimension of each head, `[..., V]`, in float32."""

    def __init__(self, head_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))
        self.eps = eps

    def forward(self, x: torch.Tensor, shard: HeadShard | None = None) -> torch.Tensor:
        weight = self.weight if shard is None else shard.copy(self.weight)
        normalised = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return (normalised * weight.float()).to(x.dtype)


class GatedDeltaNet(nn.Module):
    """Recurrent token mixer with constant memory, a drop-in for the family's attention module.

    Args:
        config: the student's configuration.
        layer_idx: index of the layer, also in the cache.
        attention: the attention module it replaces; its projections and norms are adopted, not copied.
    """

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear

    def __init__(self, config: HybridGDNConfig, layer_idx: int, attention: nn.Module) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.device_mesh: DeviceMesh | None = None  # set by `from_pretrained`; weights know theirs only unquantised
        shape = head_shape(attention, config.teacher_config)
        self.num_heads, self.num_kv_heads, self.head_dim = shape
        hidden, inner = config.hidden_size, self.num_heads * self.head_dim
        self._adopt_projections(attention, hidden)
        self.q_norm, self.k_norm, self.norm_after_rotation = query_key_norms(attention)
        self.rotary = None if layer_idx in (config.nope_layers or ()) else rotary_function(attention)
        self.recurrent_rope = config.recurrent_rope
        self.clip_qkv = getattr(getattr(attention, "config", None), "clip_qkv", None)

        channels = inner + 2 * self.num_kv_heads * self.head_dim
        kernel_size = config.conv_kernel_size
        self.short_conv = ShortConvolution(channels, kernel_size) if kernel_size > 1 else None
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        self.a_proj = GateProjection(hidden, self.num_heads, bias=False)
        self.b_proj = GateProjection(hidden, self.num_heads)
        self.g_proj = nn.Linear(hidden, inner)
        self.o_norm = HeadwiseRMSNorm(self.head_dim) if config.output_norm else None

    def _adopt_projections(self, attention: nn.Module, hidden: int) -> None:
        fused = fused_projection(attention)
        if fused is None:
            self.q_proj, self.k_proj, self.v_proj = (
                projection(attention, name) for name in ("q_proj", "k_proj", "v_proj")
            )
        else:
            has_bias, kv_rows = fused.bias is not None, self.num_kv_heads * self.head_dim
            self.q_proj = nn.Linear(hidden, self.num_heads * self.head_dim, bias=has_bias)
            self.k_proj = nn.Linear(hidden, kv_rows, bias=has_bias)
            self.v_proj = nn.Linear(hidden, kv_rows, bias=has_bias)
        self.o_proj = output_projection(attention)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        recurrent_mask: RecurrentMask | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Mixes `[B, T, C]` into `[B, T, C]`; the second item stands where attention returns its weights.

        Raises:
            RuntimeError: the family's decoder layer did not pass `recurrent_mask` down; padding would be read as text.
            ValueError: the layer is in another dtype than its input, without autocast.
        """
        if recurrent_mask is None:
            raise RuntimeError(
                "GatedDeltaNet got no recurrent_mask: either it was called outside its model, or this family's decoder "
                "layers do not hand keyword arguments to their attention, and then it cannot be converted."
            )
        check_one_dtype(hidden_states, self.a_proj.weight, self.layer_idx)
        recurrence_output = self.recurrence_output(
            hidden_states, position_embeddings, recurrent_mask, cache_in_layer(kwargs)
        )
        return self.o_proj(self.gated_output(hidden_states, recurrence_output)), None

    def recurrence_output(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        recurrent_mask: RecurrentMask,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """o of the equations, `[B, T, H, V]`: what the memory answers, before norm, gate and output projection."""
        layer_cache = None if cache is None else recurrent_layer(cache, self.layer_idx)
        inputs, window = self.recurrence_inputs(hidden_states, position_embeddings, recurrent_mask, layer_cache)
        recurrence_output, state = gated_delta_rule(
            **inputs._asdict(),
            state=None if layer_cache is None else layer_cache.recurrent_state,
            document_start=recurrent_mask.document_start,
        )
        if layer_cache is not None:
            tokens, kernel_size = hidden_states.shape[1], 0 if self.short_conv is None else self.short_conv.kernel_size
            layer_cache.store(
                state,
                None if window is None else window[:, window.shape[1] - kernel_size + 1 :],
                tokens,
                {"k": inputs.k, "v": inputs.v, "log_decay": inputs.log_decay, "beta": inputs.beta},
                None if window is None else window[:, kernel_size - 1 :],
            )
        return recurrence_output

    def recurrence_inputs(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        recurrent_mask: RecurrentMask,
        layer_cache: GDNCacheLayer | None = None,
    ) -> tuple[RecurrenceInputs, torch.Tensor | None]:
        """Everything the delta rule reads, and the window that entered the convolution (None without one)."""
        qkv = self.project(hidden_states)
        if recurrent_mask.padding is not None:
            qkv = qkv * recurrent_mask.padding[..., None].to(qkv.dtype)
        qkv, window = self._convolve(qkv, recurrent_mask, layer_cache)
        q, k, v = self.heads(qkv, position_embeddings if self.recurrent_rope else None)
        log_decay, beta = self.log_decay(hidden_states), self.beta(hidden_states)
        shard = self._shard(q.shape[2])
        if shard is not None:
            log_decay, beta = shard.scatter(log_decay, -1), shard.scatter(beta, -1)
        if recurrent_mask.padding is not None:  # nothing forgotten, nothing written: padding leaves the state as it was
            real = recurrent_mask.padding[..., None]
            log_decay, beta = log_decay.masked_fill(~real, 0.0), beta.masked_fill(~real, 0.0)
        return RecurrenceInputs(l2_normalise(q), l2_normalise(k), v, log_decay, beta), window

    def heads(
        self, qkv: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k `[B, T, H, K]`, v `[B, T, H, V]` as the teacher's attention has them: normed, rotated, K/V repeated."""
        q, k, v = self._split(qkv)
        norms = (None, None) if self.norm_after_rotation else (self.q_norm, self.k_norm)
        q, k, v = (self._normalised_heads(x, norm) for x, norm in zip((q, k, v), (*norms, None), strict=True))
        if self.clip_qkv is not None:
            q, k, v = (x.clamp(-self.clip_qkv, self.clip_qkv) for x in (q, k, v))
        if self.rotary is not None and position_embeddings is not None:
            q, k = self._rotate(q, k, position_embeddings)
        if self.norm_after_rotation:
            assert self.q_norm is not None
            assert self.k_norm is not None
            q, k = self.q_norm(q), self.k_norm(k)
        groups = q.shape[2] // k.shape[2]
        k, v = (x.repeat_interleave(groups, dim=2) for x in (k, v))
        return q, k, v

    def log_decay(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """log alpha_t `[B, T, H]`, in float32."""
        return log_decay(self.a_proj(hidden_states), self.A_log, self.dt_bias)

    def beta(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The write gate beta_t `[B, T, H]`, in float32."""
        return self.b_proj(hidden_states).float().sigmoid()

    def gated_output(self, hidden_states: torch.Tensor, recurrence_output: torch.Tensor) -> torch.Tensor:
        """Norm and output gate: `[B, T, H, V]` to the input of o_proj, `[B, T, H * V]`."""
        shard, gate = self._shard(recurrence_output.shape[2]), F.silu(self.g_proj(hidden_states))
        if shard is not None:
            gate = shard.scatter(gate, -1)
        normed = recurrence_output if self.o_norm is None else self.o_norm(recurrence_output, shard)
        return normed.flatten(2) * gate

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """q, k and v side by side, `[B, T, channels]`, before convolution, norms and rotation."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        return torch.cat([projection(hidden_states) for projection in projections], dim=-1)

    def _split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """q, k and v side by side in the last dimension, of all heads or of one rank's, to q, k and v."""
        head = qkv.shape[-1] // (self.num_heads + 2 * self.num_kv_heads)  # less than head_dim on one of several ranks
        return qkv.split([self.num_heads * head, self.num_kv_heads * head, self.num_kv_heads * head], dim=-1)

    def _shard(self, heads: int) -> HeadShard | None:
        return find_head_shard(self.device_mesh, heads, self.num_heads)

    def _convolve(
        self, qkv: torch.Tensor, recurrent_mask: RecurrentMask, layer_cache: GDNCacheLayer | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.short_conv is None:
            return qkv, None
        past = None if layer_cache is None else layer_cache.conv_state
        window = (
            pad_left(qkv, self.short_conv.kernel_size) if past is None else torch.cat([past.to(qkv.dtype), qkv], dim=1)
        )
        own_channels = None
        shard = self._shard(self._split(qkv)[0].shape[-1] // self.head_dim)
        if shard is not None:
            own_channels = lambda weight: torch.cat([shard.scatter(x, -1) for x in self._split(weight)], dim=-1)  # noqa: E731
        return self.short_conv(window, recurrent_mask.document_position, own_channels), window

    def _normalised_heads(self, x: torch.Tensor, norm: nn.Module | None) -> torch.Tensor:
        """`[B, T, H * K]` to `[B, T, H, K]`, with the family's q/k norm over all heads at once or over each."""
        weight = getattr(norm, "weight", None)
        if norm is not None and weight is not None and weight.shape == x.shape[-1:]:
            x, norm = norm(x), None
        x = x.unflatten(-1, (-1, self.head_dim))
        return x if norm is None else norm(x)

    def _rotate(
        self, q: torch.Tensor, k: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.rotary is not None
        q, k = self.rotary(q.transpose(1, 2), k.transpose(1, 2), *position_embeddings)  # the library's [B, H, T, K]
        return q.transpose(1, 2), k.transpose(1, 2)


def l2_normalise(x: torch.Tensor) -> torch.Tensor:
    """Unit vectors along the last dimension, computed in float32 (float64 stays)."""
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + L2_EPS)).to(x.dtype)
