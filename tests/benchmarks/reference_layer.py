# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The semantics of Taylor-Calibrate's public reference, re-implemented from its equations to be measured against.

    q, k, v = SiLU(W x)                    no biases, q/k norm or RoPE; grouped K/V repeated by rows instead of heads
    alpha   = exp(-exp(A_log) softplus(W_a x + dt_bias)),   beta = sigmoid(W_b x)                      W_a, W_b random
    y       = W_o [ RMSNorm(gated delta rule(q, k, v, alpha, beta)) * SiLU(W_g x) ]

Phase 1: half-life = mean attention distance; beta = 0.3 + 0.4 concentration; one least-squares scale per head in W_v;
W_g = 0.01 rms(context) W_v. Phase 2: AdamW on the squared error to the teacher's attention output, o_proj fixed.

Where the public code loses something by a slip rather than by method, this does not: weights are float32 here, and the
best step's own weights are kept. Source: Taylor-Calibrate (arXiv 2606.16429), section 3.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_tc.calibration.attention_statistics import AttentionStatistics
from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.decay import dt_bias_of
from hf_tc.modeling.decay import log_decay
from hf_tc.modeling.gated_delta_rule import chunk_gated_delta_rule, gated_delta_rule, recurrent_gated_delta_rule
from hf_tc.modeling.recurrence_inputs import l2_normalise
from hf_tc.modeling.teacher_attention import head_shape, output_projection

GATE_DAMPING = 0.01
SMALLEST_SCALE, LARGEST_SCALE = 0.1, 10.0
NEW_LEARNING_RATE, TEACHER_LEARNING_RATE, WEIGHT_DECAY, GRADIENT_CLIP = 1e-3, 1e-4, 0.01, 1.0


def rows_repeated(weight: Tensor, groups: int) -> Tensor:
    """Grouped K/V weight `[H_kv * K, C]` to `[H * K, C]`, each row repeated: heads end up with other heads' rows."""
    return weight.repeat_interleave(groups, dim=0)


def paper_write_gate(entropy: Tensor) -> Tensor:
    """beta_h = 0.3 + 0.4 c_h, from the entropy of each head's attention `[H]`; c is 1 for the sharpest, 0 for the most
    diffuse."""
    spread = (entropy.max() - entropy.min()).clamp_min(torch.finfo(entropy.dtype).eps)
    return 0.3 + 0.4 * (1 - (entropy - entropy.min()) / spread)


def paper_value_scale(recurrence_output: Tensor, context: Tensor) -> Tensor:
    """sigma_h = <context, output> / <output, output> of `[B, T, H, V]`, clipped to [0.1, 10]: `[H]`."""
    inner, size = ((recurrence_output * x).sum((0, 1, 3)) for x in (context, recurrence_output))
    return (inner / size.clamp_min(1e-30)).clamp(SMALLEST_SCALE, LARGEST_SCALE)


class ReferenceLayer(nn.Module):
    """The reference's recurrent layer around an attention module, which is read, not changed.

    Args:
        attention: with q_proj, k_proj, v_proj and an output projection.
        text_config: the teacher's configuration.
        seed: of the random W_a and W_b.
    """

    def __init__(self, attention: Any, text_config: Any, seed: int) -> None:
        super().__init__()
        self.heads, kv_heads, self.head_dim = head_shape(attention, text_config)
        groups, hidden = self.heads // kv_heads, attention.q_proj.in_features
        q, k, v = (getattr(attention, f"{name}_proj").weight.detach().float() for name in "qkv")
        self.q_proj = nn.Parameter(q.clone())
        self.k_proj, self.v_proj = (nn.Parameter(rows_repeated(w, groups).contiguous()) for w in (k, v))
        self.register_buffer("o_proj", output_projection(attention).weight.detach().float().clone())
        generator = torch.Generator().manual_seed(seed)
        random = ((torch.rand(self.heads, hidden, generator=generator) * 2 - 1) * hidden**-0.5 for _ in range(2))
        self.a_proj, self.b_proj = (nn.Parameter(w.to(q)) for w in random)
        self.A_log, self.dt_bias = (nn.Parameter(q.new_zeros(self.heads)) for _ in range(2))
        self.g_proj = nn.Parameter(torch.zeros_like(self.v_proj))
        self.o_norm = torch.nn.RMSNorm(self.head_dim, eps=1e-5).to(q.device)
        self.rule = chunk_gated_delta_rule

    def train_end_to_end(self) -> None:
        """What comes after phase 2: the output projection trains too, and the recurrence takes its fastest form."""
        o_proj = self.o_proj
        del self.o_proj
        self.o_proj = nn.Parameter(o_proj)
        self.rule = gated_delta_rule

    def recurrence_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """What the gated delta rule reads, for x `[B, T, C]`."""
        q, k, v = (
            F.silu(x @ weight.T).unflatten(-1, (self.heads, self.head_dim))
            for weight in (self.q_proj, self.k_proj, self.v_proj)
        )
        decay = log_decay(x @ self.a_proj.T, self.A_log, self.dt_bias)
        beta = (x @ self.b_proj.T).sigmoid()
        return dict(q=l2_normalise(q), k=l2_normalise(k), v=v, log_decay=decay, beta=beta)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        """Mixes `[B, T, C]`; takes the place of an attention module in its decoder layer."""
        recurrence_output, _ = self.rule(**self.recurrence_inputs(hidden_states))
        gate = F.silu(hidden_states @ self.g_proj.T)
        return (self.o_norm(recurrence_output).flatten(2) * gate) @ self.o_proj.T, None


@torch.no_grad()
def calibrate(layer: ReferenceLayer, captured: CapturedAttention, statistics: AttentionStatistics) -> None:
    """Phase 1, in place; the output of the value scale is computed token by token, as the reference does."""
    layer.dt_bias.copy_(dt_bias_of(statistics.mean_attention_distance.clamp_min(0.5)))
    # The random matrix is rescaled; without a bias beta stays around 0.5, whatever the target.
    layer.b_proj.mul_(paper_write_gate(statistics.attention_entropy)[:, None].to(layer.b_proj) / 0.5)
    context = captured.teacher_context.unflatten(-1, (layer.heads, layer.head_dim))
    recurrence_output, _ = recurrent_gated_delta_rule(**layer.recurrence_inputs(captured.attn_input))
    scale = paper_value_scale(recurrence_output, context)
    layer.v_proj.mul_(scale.repeat_interleave(layer.head_dim)[:, None])
    layer.g_proj.copy_(GATE_DAMPING * context.square().mean().sqrt() * layer.v_proj)


def align(layer: ReferenceLayer, captured: CapturedAttention, steps: int, batch_blocks: int | None, seed: int) -> None:
    """Phase 2, in place: AdamW on all blocks at once, or on minibatches of `batch_blocks` blocks."""
    optimizer = torch.optim.AdamW(_parameter_groups(layer), weight_decay=WEIGHT_DECAY)
    best_loss, best_state = float("inf"), {}
    for rows in batches(len(captured.attn_input), batch_blocks, steps, seed):
        output, _ = layer(captured.attn_input[rows])
        loss = F.mse_loss(output, captured.teacher_output[rows])
        if batch_blocks is None and loss.item() < best_loss:  # of a minibatch, the last weights are the best guess
            best_loss, best_state = loss.item(), {n: p.detach().clone() for n, p in layer.state_dict().items()}
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(layer.parameters(), GRADIENT_CLIP)
        optimizer.step()
    if best_state:
        layer.load_state_dict(best_state)


def batches(blocks: int, batch_blocks: int | None, steps: int, seed: int) -> Iterator[Tensor | slice]:
    """Rows of each step: all, or `batch_blocks` of them at random."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield slice(None) if batch_blocks is None else torch.randperm(blocks, generator=generator)[:batch_blocks]


def _parameter_groups(layer: ReferenceLayer) -> list[dict[str, Any]]:
    teacher_parts = [layer.q_proj, layer.k_proj, layer.v_proj]
    new = [parameter for parameter in layer.parameters() if not any(parameter is part for part in teacher_parts)]
    return [{"params": new, "lr": NEW_LEARNING_RATE}, {"params": teacher_parts, "lr": TEACHER_LEARNING_RATE}]
