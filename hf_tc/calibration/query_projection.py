# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Query projection: the state does not depend on q, so the output is linear in W_q and the best W_q can be solved.

    o_t = S_t^T q_t / sqrt(K),   q_t = rho_t R_t D W_q x_t          (R_t: RoPE, D: weight of the q norm)
    min over W_q of  sum_t |c_t - s_t o_t|^2                        (s_t: the output gate)

rho_t, the length that the norms divide by, is held where it is; the gate, solved again afterwards, takes up its change.
An activation behind the convolution is taken at its slope where the queries are: a Gauss-Newton step.
The system has C * K unknowns a head, so it is solved by conjugate gradients: one pass over the tokens per iteration.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_tc.calibration.activation_range import is_activated, silu_slope
from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.output_gate import OutputGate
from hf_tc.calibration.recurrence_outputs import (
    WrittenMemory,
    block_batches,
    context_by_head,
    norm_factor,
    recurrence_inputs,
    writes,
)
from hf_tc.calibration.ridge import PRIOR_TOKENS
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.teachers.norm_direction import norm_direction

ITERATIONS = 12
PRECONDITIONER_RIDGE = 1e-3  # of the mean input variance


def solve_query_projection(mixer: GatedDeltaNet, captured: CapturedAttention, gate: OutputGate) -> dict[str, Tensor]:
    """New q_proj weight `[H * K, C]` (and bias, where the teacher has one), by ridge towards the present one.

    Queries are normed afterwards, so the length of the weight is free: each head keeps the length it had, with which
    the step sizes of a later training fit.
    """
    problems: Iterable[_QueryProblem] = _Problems(mixer, captured, gate)
    if not captured.in_host_memory:
        problems = list(problems)
    start = mixer.q_proj.weight.unflatten(0, (mixer.num_heads, -1))  # [H, K, C]
    tokens = captured.attn_input.shape[0] * captured.attn_input.shape[1]
    strength = PRIOR_TOKENS / tokens * _curvature(problems, start)

    def normal_operator(direction: Tensor) -> Tensor:
        total = sum((problem.normal(direction) for problem in problems), torch.zeros_like(direction))
        return total + strength[:, None, None] * direction

    right_side = sum((problem.gradient(start) for problem in problems), torch.zeros_like(start))
    change = conjugate_gradient(normal_operator, right_side, _input_preconditioner(captured), ITERATIONS)
    length = start.norm(dim=(1, 2), keepdim=True) / (start + change).norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    solved = {"q_proj.weight": ((start + change) * length).flatten(0, 1)}
    if mixer.q_proj.bias is not None:
        solved["q_proj.bias"] = (mixer.q_proj.bias.unflatten(0, (mixer.num_heads, -1)) * length[..., 0]).flatten()
    return solved


def can_turn(mixer: GatedDeltaNet) -> bool:
    """Whether a negated W_q negates the queries: not through a norm that adds a bias."""
    return getattr(mixer.q_norm, "bias", None) is None


def turned_queries(mixer: GatedDeltaNet, sign: Tensor) -> dict[str, Tensor]:
    """q_proj weight and bias that negate the queries, and so the output, of the heads where `sign` `[H]` is -1."""
    rows = sign.repeat_interleave(mixer.head_dim)
    turned = {"q_proj.weight": mixer.q_proj.weight * rows[:, None]}
    if mixer.q_proj.bias is not None:
        turned["q_proj.bias"] = mixer.q_proj.bias * rows
    return turned


class _Problems:
    """The problem of each batch, set up again whenever they are gone through: memory of one batch, more time."""

    def __init__(self, mixer: GatedDeltaNet, captured: CapturedAttention, gate: OutputGate) -> None:
        self.mixer, self.captured, self.gate = mixer, captured, gate

    def __iter__(self) -> Iterator["_QueryProblem"]:
        for rows in block_batches(self.captured):
            yield _QueryProblem(self.mixer, self.captured, self.gate, rows)


class _QueryProblem:
    """The linear map from W_q to the gated output of a batch, with everything else held fixed."""

    def __init__(self, mixer: GatedDeltaNet, captured: CapturedAttention, gate: OutputGate, rows: slice) -> None:
        self.mixer, self.x = mixer, captured.attn_input[rows]
        self.norm = norm_direction(mixer.q_norm, mixer.num_heads, mixer.head_dim)
        self.position_embeddings = captured.position_embeddings if mixer.recurrent_rope else None
        inputs = recurrence_inputs(mixer, captured, rows)
        self.memory = WrittenMemory.of(k=inputs.k, u=writes(inputs), log_decay=inputs.log_decay)
        gate_scale = (gate.gate_scale(self.x) * norm_factor(mixer, inputs))[..., None]
        self.context = context_by_head(captured, rows, mixer.head_dim)
        weight = mixer.q_proj.weight.unflatten(0, (mixer.num_heads, -1))
        self.bias = None if mixer.q_proj.bias is None else mixer.q_proj.bias.unflatten(0, (mixer.num_heads, -1))
        self.slope: Tensor | None = None
        raw = self._queries(weight, self.bias)
        self.answer: Tensor | None = None  # the gated output at hand, where it is not linear in the weight
        if is_activated(mixer):
            assert mixer.short_conv is not None
            taps = mixer.short_conv.weight[0].unflatten(0, (-1, mixer.head_dim))[: mixer.num_heads]
            self.slope, raw = taps * silu_slope(taps * raw), F.silu(taps * raw)
            self.answer = self.memory.read(inputs.q * gate_scale)
        # The output is linear in the queries: with the output gate on them, it comes gated. [B, T, H, 1]
        self.size = gate_scale / raw.norm(dim=-1).clamp_min(1e-12)[..., None]

    def _queries(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        raw = torch.einsum("btc,hkc->bthk", self.x, weight)
        raw = raw if bias is None else raw + bias
        raw = raw if self.slope is None else raw * self.slope
        return linear_queries(self.mixer, self.norm, raw, self.position_embeddings)

    def output(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Gated output `[B, T, H, V]` for queries made with `weight` `[H, K, C]`."""
        return self.memory.read(self._queries(weight, bias) * self.size)

    def _adjoint(self, weight: Tensor, residual: Callable[[Tensor], Tensor], bias: Tensor | None = None) -> Tensor:
        with torch.enable_grad():
            leaf = weight.detach().requires_grad_(True)
            output = self.output(leaf, bias)
            return torch.autograd.grad(output, leaf, residual(output.detach()))[0]

    def normal(self, direction: Tensor) -> Tensor:
        """J^T J direction; the adjoint of a linear map is its gradient."""
        return self._adjoint(direction, lambda output: output)

    def gradient(self, weight: Tensor) -> Tensor:
        """J^T (context - output): the right-hand side for a change of `weight`."""
        return self._adjoint(
            weight, lambda output: self.context - (output if self.answer is None else self.answer), self.bias
        )


def linear_queries(
    mixer: GatedDeltaNet,
    norm: Callable[[Tensor], Tensor],
    raw: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """R_t D q for projected queries `[B, T, H, K]`: what norm and RoPE do to them but for their length.

    Args:
        norm: the mixer's `norm_direction`.
    """
    if mixer.norm_after_rotation:
        return norm(_rotated(mixer, raw, position_embeddings))
    return _rotated(mixer, norm(raw), position_embeddings)


def _rotated(mixer: GatedDeltaNet, q: Tensor, position_embeddings: tuple[Tensor, Tensor] | None) -> Tensor:
    if mixer.rotary is None or position_embeddings is None:
        return q
    q = q.transpose(1, 2)
    return mixer.rotary(q, q[:, :1], *position_embeddings)[0].transpose(1, 2)  # it wants a key too


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor], right_side: Tensor, preconditioner: Tensor, iterations: int
) -> Tensor:
    """Solves one symmetric system per head: unknowns `[H, K, C]`, preconditioner `[C, C]` applied on the right."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2), keepdim=True)

    solution, residual = torch.zeros_like(right_side), right_side
    z = residual @ preconditioner
    direction, product = z, dot(residual, z)
    for _ in range(iterations):
        image = operator(direction)
        step = product / dot(direction, image).clamp_min(1e-30)
        solution, residual = solution + step * direction, residual - step * image
        z = residual @ preconditioner
        previous, product = product, dot(residual, z)
        direction = z + product / previous.clamp_min(1e-30) * direction
    return solution


def _input_preconditioner(captured: CapturedAttention) -> Tensor:
    width = captured.attn_input.shape[-1]
    gram = torch.zeros(width, width, dtype=torch.float64, device=captured.attn_input.device)
    for rows in block_batches(captured):
        x = captured.attn_input[rows].flatten(0, 1)
        gram += x.T @ x
    gram.diagonal().add_(PRECONDITIONER_RIDGE * gram.diagonal().mean())
    inverse = torch.linalg.inv_ex(gram)[0]  # without waiting for a GPU to say that it exists
    return (inverse / inverse.diagonal().mean()).float()


def _curvature(problems: Iterable[_QueryProblem], like: Tensor) -> Tensor:
    """Mean eigenvalue of J^T J per head `[H]`, estimated along one random direction."""
    generator = torch.Generator(like.device).manual_seed(0)
    probe = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    probe = probe / probe.norm(dim=(1, 2), keepdim=True)
    return sum((problem.output(probe).square().sum((0, 1, 3)) for problem in problems), probe.new_zeros(len(probe)))
