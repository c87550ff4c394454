# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The recurrent mixer that stands where the teacher had softmax attention: Gated DeltaNet on the teacher's projections.

    q, k, v   = teacher's projections, biases, q/k norms and RoPE; short convolution; L2 norm on q and k
    log_decay = -exp(A_log) * softplus(a_proj x + dt_bias)                 per query head, in float32
    beta      = sigmoid(b_proj x)                                          write gate, per query head
    o         = gated delta rule(q, k, v, log_decay, beta)                 one state per query head
    y         = o_proj( norm(o) * SiLU(g_proj x) )                         output gate; norm: RMSNorm or none

where a text's first token adds to o its own value, see `first_token`.

Source: Gated Delta Networks (arXiv 2412.06464), section 3.4; Taylor-Calibrate (arXiv 2606.16429), section 3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from .cache import GDNCacheLayer, recurrent_layer
from .configuration_hybrid_gdn import HybridGDNConfig
from .decay import log_decay
from .first_token import with_first_values
from .fused_mixer import can_be_one_call, in_one_call
from .fused_recurrence_inputs import can_be_fused, fused_recurrence_inputs
from .gate_projection import GateProjection, check_one_dtype
from .gated_delta_rule import CHUNK_SIZE, gated_delta_rule
from .library_cache import cache_in_layer
from .masks import RecurrentMask
from .plain_recurrence_inputs import plain_inputs, without_padding
from .recurrence_inputs import Projections, RecurrenceInputs
from .short_convolution import ShortConvolution
from .teacher_attention import (
    fused_projection,
    head_shape,
    output_projection,
    projection,
    query_key_norms,
    rotary_function,
    without_bias,
)
from .tensor_parallel import HeadShard, find_head_shard

SLAB_TOKENS = 16_384  # tokens that a layer works on at a time where no gradient is asked for


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
        self._adopt_projections(attention, hidden, config.recurrent_bias)
        norms = query_key_norms(attention) if config.recurrent_qk_norm else (None, None, False)
        self.q_norm, self.k_norm, self.norm_after_rotation = norms
        self.rotary = None if layer_idx in (config.nope_layers or ()) else rotary_function(attention)
        self.recurrent_rope = config.recurrent_rope
        self.clip_qkv = getattr(getattr(attention, "config", None), "clip_qkv", None)

        channels = inner + 2 * self.num_kv_heads * self.head_dim
        kernel_size = config.conv_kernel_size
        activated = config.conv_activation == "silu"
        self.short_conv = ShortConvolution(channels, kernel_size, activated) if kernel_size > 1 else None
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        self.a_proj = GateProjection(hidden, self.num_heads, bias=False)
        self.b_proj = GateProjection(hidden, self.num_heads, bias=config.recurrent_bias)
        self.g_proj = nn.Linear(hidden, inner, bias=config.recurrent_bias)
        self.o_norm = nn.RMSNorm(self.head_dim, eps=config.output_norm_eps) if config.output_norm else None
        self.first_token_weight = nn.Parameter(torch.empty(inner)) if config.first_token_value else None

    def _adopt_projections(self, attention: nn.Module, hidden: int, biases: bool) -> None:
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
        if not biases:
            self.q_proj, self.k_proj, self.v_proj, self.o_proj = map(
                without_bias, (self.q_proj, self.k_proj, self.v_proj, self.o_proj)
            )

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
        cache = cache_in_layer(kwargs)
        layer_cache = None if cache is None else recurrent_layer(cache, self.layer_idx)
        mix = self._mix if torch.is_grad_enabled() or torch.compiler.is_compiling() else self._mix_in_slabs
        return mix(hidden_states, self._rotation(position_embeddings), recurrent_mask, layer_cache), None

    def _mix_in_slabs(
        self,
        hidden_states: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        mask: RecurrentMask,
        layer_cache: GDNCacheLayer | None,
    ) -> torch.Tensor:
        """As `_mix`, some tokens after the others, so that what lies between input and output stays small."""
        batch, length = hidden_states.shape[:2]
        slab = max(CHUNK_SIZE, SLAB_TOKENS // batch // CHUNK_SIZE * CHUNK_SIZE)
        if length <= slab:
            return self._mix(hidden_states, rotation, mask, layer_cache)
        layer_cache, output = layer_cache or GDNCacheLayer(), None
        for start in range(0, length, slab):
            tokens = slice(start, start + slab)
            here = None if rotation is None else (rotation[0][:, tokens], rotation[1][:, tokens])
            mixed = self._mix(hidden_states[:, tokens], here, mask.part(tokens), layer_cache)
            if output is None:
                output = mixed.new_empty(batch, length, mixed.shape[-1])
            output[:, tokens] = mixed
        assert output is not None
        return output

    def _mix(
        self,
        hidden_states: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        mask: RecurrentMask,
        layer_cache: GDNCacheLayer | None,
    ) -> torch.Tensor:
        if layer_cache is None and can_be_one_call(self, hidden_states, rotation, mask):
            return in_one_call(self, hidden_states, rotation, mask)
        projections = self.projections(hidden_states)
        inputs = self._inputs(projections, rotation, mask, layer_cache)
        recurrence_output, state = gated_delta_rule(
            **inputs._asdict(),
            state=None if layer_cache is None else layer_cache.recurrent_state,
            document_start=mask.document_start,
            document_bounds=mask.document_bounds,
        )
        if self.first_token_weight is not None:
            recurrence_output = with_first_values(self, recurrence_output, inputs.v, mask, layer_cache)
        if layer_cache is not None:
            qkv = without_padding(projections.qkv, mask)
            self._store(layer_cache, state, inputs, qkv, mask.has_empty_rows)
        return self.o_proj(self.gated_output(projections.gate, recurrence_output))

    def _store(
        self,
        layer_cache: GDNCacheLayer,
        state: torch.Tensor,
        inputs: RecurrenceInputs,
        qkv: torch.Tensor,
        has_empty_rows: bool,
    ) -> None:
        conv, past = self.short_conv, layer_cache.conv_state
        layer_cache.store(
            state,
            None if conv is None else conv.state_after(qkv, past),
            qkv.shape[1],
            {"k": inputs.k, "v": inputs.v, "log_decay": inputs.log_decay, "beta": inputs.beta},
            None if conv is None else qkv,
            has_empty_rows,
        )

    def recurrence_inputs(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        recurrent_mask: RecurrentMask,
    ) -> RecurrenceInputs:
        """What the delta rule reads of `[B, T, C]`."""
        rotation = self._rotation(position_embeddings)
        return self._inputs(self.projections(hidden_states), rotation, recurrent_mask, None)

    def _rotation(
        self, position_embeddings: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """cos and sin by which q and k are turned; None in a layer without positions."""
        return position_embeddings if self.recurrent_rope and self.rotary is not None else None

    def _inputs(
        self,
        projections: Projections,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        mask: RecurrentMask,
        layer_cache: GDNCacheLayer | None,
    ) -> RecurrenceInputs:
        past = None if layer_cache is None else layer_cache.conv_state
        form = fused_recurrence_inputs if can_be_fused(self, projections, rotation, past) else plain_inputs
        return form(self, projections, rotation, mask, past)

    def log_decay(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """log alpha_t `[B, T, H]`, in float32."""
        return log_decay(self.a_proj(hidden_states), self.A_log, self.dt_bias)

    def beta(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The write gate beta_t `[B, T, H]`, in float32."""
        return self.b_proj(hidden_states).float().sigmoid()

    def gated_output(self, gate: torch.Tensor, recurrence_output: torch.Tensor) -> torch.Tensor:
        """Norm and output gate: `[B, T, H * V]` before its SiLU and `[B, T, H, V]` to the input of o_proj."""
        heads = recurrence_output.shape[2]
        gate = self.own_heads(F.silu(gate), heads)
        if self.o_norm is not None:
            shard = self.shard(heads)
            if shard is None:
                recurrence_output = self.o_norm(recurrence_output)
            else:
                weight = shard.copy(self.o_norm.weight)
                recurrence_output = F.rms_norm(recurrence_output, weight.shape, weight, self.o_norm.eps)
        return recurrence_output.flatten(2) * gate

    @property
    def input_projections(self) -> tuple[nn.Linear | GateProjection, ...]:
        """Those to q, k, v, a, b and the output gate."""
        return self.q_proj, self.k_proj, self.v_proj, self.a_proj, self.b_proj, self.g_proj

    def projections(self, hidden_states: torch.Tensor) -> Projections:
        """All that is linear in the input `[B, T, C]`."""
        a, b, gate = (module(hidden_states) for module in (self.a_proj, self.b_proj, self.g_proj))
        return Projections(self.project(hidden_states), a, b, gate)

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """q, k and v side by side, `[B, T, channels]`, before convolution, norms and rotation."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        return torch.cat([projection(hidden_states) for projection in projections], dim=-1)

    def own_heads(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """This rank's share, in the last dimension, of what all ranks have whole; see `shard`."""
        shard = self.shard(heads)
        return x if shard is None else shard.scatter(x, -1)

    def shard(self, heads: int) -> HeadShard | None:
        """The ranks among which the heads are divided, seen that this one computes so many; None where it has all."""
        return find_head_shard(self.device_mesh, heads, self.num_heads)
