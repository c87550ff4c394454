# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Phase 1, the closed form: solve all of a recurrent layer from what its attention did, then write it.

Given everything else, the layer is linear in its gate, in its values, in its queries and in its output projection, so
each is a least-squares problem; `solve` takes them in turn. It only computes: `apply` is the one place that assigns
weights.

Pieces that can be left out, and what then stands in their place:

    half_life          the paper's rule: the head's mean attention distance
    write_gate         beta = 0.5
    token_gates        decay and write gate of a head are the same at all tokens
    query, value       the teacher's projection
    output_gate        one scale per head, the same at all tokens: the paper's rule
    output_projection  the teacher's projection, times that scale
    first_token        nothing that a text's first token adds

Half-life, write gate and the sign of the queries are searched together, the same at all tokens. The queries come next:
where the teacher's read badly, the output gate is all but closed, and a step behind it would see nothing. `token_gates`
then makes decay and write gate respond to the token, before and after the queries are solved once more. The output gate
is fitted again after every component before it.

Of the form that Qwen3.5 has, q, k and v go through SiLU: before all solves, and after that of the values, they are made
so small that it is nearly a line (`activation_range`). Its write and output gates have no bias, and a direction of the
input stands in (`constant_direction`).
"""

import copy
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hf_tc.calibration.activation_range import is_activated, solve_activation_range
from hf_tc.calibration.attention_statistics import AttentionStatistics, attention_statistics
from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.constant_direction import constant_direction, folded_bias
from hf_tc.calibration.decay import HALF_LIFE_FACTORS, dt_bias_of, half_life_candidates
from hf_tc.calibration.first_token import solve_first_token_weight
from hf_tc.calibration.gauss_newton import features_to_fit
from hf_tc.calibration.half_life_search import Memory, search_memory
from hf_tc.calibration.output_gate import OutputGate, solve_constant_gate, solve_output_gate
from hf_tc.calibration.output_projection import scaled_output_projection, solve_output_projection
from hf_tc.calibration.query_projection import can_turn, solve_query_projection, turned_queries
from hf_tc.calibration.recurrence_outputs import block_batches, context_by_head, recurrence_inputs, solved_at_once
from hf_tc.calibration.token_decay import solve_token_decay
from hf_tc.calibration.token_write_gate import solve_token_write_gate
from hf_tc.calibration.value_projection import share_scale, solve_value_projection
from hf_tc.calibration.write_gate import BETA_CANDIDATES, NEUTRAL_BETA, write_gate_bias_of
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.plain_recurrence_inputs import heads

SOLVED_TOKENS = 65_536  # of text that layers are solved on; four times as many gained a quarter of a percent
SEARCH_TOKENS = 8192  # tokens that choose half-life and beta; more change the choice little and cost time

REFITS = ("query", "token_gates", "query", "token_gates", "value")
Solver = Callable[[GatedDeltaNet, CapturedAttention, OutputGate], dict[str, Tensor]]
COMPONENTS = (
    "half_life", "write_gate", "token_gates", "query", "value", "output_gate", "output_projection", "first_token"
)  # fmt: skip


@dataclass
class GDNInitialization:
    """New values of a mixer's parameters by name, and the quantities behind them, per head `[H]`."""

    weights: dict[str, Tensor]
    statistics: AttentionStatistics
    half_life: Tensor  # tokens, of the mean log decay
    beta: Tensor  # mean over tokens
    output_scale: Tensor


@torch.no_grad()
def solve(
    mixer: GatedDeltaNet,
    captured: CapturedAttention,
    *,
    scaling: float,
    window: int | None = None,
    attention: GatedDeltaNet | None = None,
    components: Collection[str] = COMPONENTS,
) -> GDNInitialization:
    """The closed form of one layer. The mixer (float32, fresh from the teacher's projections) is only read.

    Args:
        captured: the teacher's attention on the calibration blocks.
        scaling, window: of the teacher's attention, see `attention_statistics`.
        attention: `teachers_mixer`, where the mixer's form leaves out norms or biases of the teacher's q and k.
        components: which of COMPONENTS to solve, in whatever order they are named.

    Raises:
        ValueError: a component that does not exist.
    """
    if unknown := set(components) - set(COMPONENTS):
        raise ValueError(
            f"No component of the closed form is called {sorted(unknown)}; there are {', '.join(COMPONENTS)}."
        )
    scratch, weights = copy.deepcopy(mixer), {}
    constant = constant_direction(captured) if mixer.b_proj.bias is None else None

    def take(solved: dict[str, Tensor]) -> None:
        weights.update(solved)
        apply(scratch, solved)

    fit_gate = partial(solve_output_gate if "output_gate" in components else solve_constant_gate, constant=constant)
    statistics = layer_statistics(attention or mixer, captured, scaling, window)
    if is_activated(mixer):
        take(solve_activation_range(scratch, captured))
    memory = _search(scratch, captured, statistics.mean_attention_distance, components)
    turned = turned_queries(mixer, memory.sign) if "query" in components else {}
    take(_memory_weights(mixer, memory, constant) | turned)
    gate = fit_gate(scratch, captured)
    solvers = _solvers(mixer, captured, components, constant)
    for component in REFITS:
        if component in components:
            for solve_part in solvers[component]:
                take(solve_part(scratch, captured, gate))
            gate = fit_gate(scratch, captured)
    take(_gate_weights(gate, mixer))
    values, scale = share_scale(scratch, gate.scale)
    take(values)
    if "output_projection" in components:
        take(solve_output_projection(scratch, captured, scale))
    else:
        take({"o_proj.weight": scaled_output_projection(scratch.o_proj.weight, scale)})
    if "first_token" in components and mixer.first_token_weight is not None:
        take(solve_first_token_weight(scratch, captured))
    return GDNInitialization(weights, statistics, *_mean_memory(scratch, captured), gate.scale)


def _solvers(
    mixer: GatedDeltaNet, captured: CapturedAttention, components: Collection[str], constant: Tensor | None
) -> dict[str, list[Solver]]:
    """What solves each component of REFITS, in order."""
    solvers: dict[str, list[Solver]] = {"query": [solve_query_projection], "value": [solve_value_projection]}
    if is_activated(mixer):
        solvers["value"].append(lambda mixer, captured, gate: solve_activation_range(mixer, captured))
    if "token_gates" in components:
        features = features_to_fit(captured)
        of_write_gate = features if constant is None else features.without_bias(constant)
        solvers["token_gates"] = [
            partial(solve_token_write_gate, features=of_write_gate),
            partial(solve_token_decay, features=features),
        ]
    return solvers


@torch.no_grad()
def apply(mixer: GatedDeltaNet, weights: dict[str, Tensor]) -> None:
    """Writes solved weights into a mixer, in the mixer's dtype.

    Raises:
        KeyError, ValueError: a name the mixer does not have, another shape, or a value that is not finite.
    """
    parameters = dict(mixer.named_parameters())
    # Asked once of all: a GPU is waited for at every answer.
    is_finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist() if weights else []
    for (name, value), finite in zip(weights.items(), is_finite, strict=True):
        if parameters[name].shape != value.shape:
            raise ValueError(f"{name} is {tuple(parameters[name].shape)}, the solution is {tuple(value.shape)}.")
        if not finite:
            raise ValueError(
                f"The solution of {name} in layer {mixer.layer_idx} is not finite; calibrate on more text."
            )
        parameters[name].copy_(value)


def layer_statistics(
    mixer: GatedDeltaNet, captured: CapturedAttention, scaling: float, window: int | None
) -> AttentionStatistics:
    """Attention statistics of the layer, from queries and keys recomputed out of its inputs."""
    parts = []
    for rows in block_batches(captured):
        q, k, _ = heads(mixer, mixer.project(captured.attn_input[rows]), captured.position_embeddings)
        parts.append(attention_statistics(q=q, k=k, scaling=scaling, window=window))
    return AttentionStatistics.merged(parts)


def _search(
    mixer: GatedDeltaNet, captured: CapturedAttention, mean_attention_distance: Tensor, components: Collection[str]
) -> Memory:
    rows = slice(0, max(1, SEARCH_TOKENS // captured.attn_input.shape[1]))
    inputs = recurrence_inputs(mixer, captured, rows)
    factors = HALF_LIFE_FACTORS if "half_life" in components else (1.0,)
    return search_memory(
        q=inputs.q,
        k=inputs.k,
        v=inputs.v,
        context=context_by_head(captured, rows, mixer.head_dim),
        half_lives=half_life_candidates(mean_attention_distance.to(inputs.q), factors),
        betas=BETA_CANDIDATES if "write_gate" in components else (NEUTRAL_BETA,),
        signs=(1.0, -1.0) if "query" in components and can_turn(mixer) else (1.0,),
        at_once=_pairs_at_once(mixer, inputs.q),
    )


def _pairs_at_once(mixer: GatedDeltaNet, q: Tensor) -> int:
    """Candidates of the search that fill a GPU together; a CPU is faster with one."""
    return max(1, solved_at_once(mixer.num_heads * mixer.head_dim, True) // q.shape[:2].numel()) if q.is_cuda else 1


def _mean_memory(mixer: GatedDeltaNet, captured: CapturedAttention) -> tuple[Tensor, Tensor]:
    """Half-life in tokens, of the mean log decay, and mean beta, `[H]`."""
    log_decay, beta = torch.zeros(2, mixer.num_heads, device=captured.attn_input.device)
    for rows in block_batches(captured):
        x = captured.attn_input[rows]
        log_decay = log_decay + mixer.log_decay(x).sum((0, 1))
        beta = beta + mixer.beta(x).sum((0, 1))
    tokens = captured.attn_input.shape[0] * captured.attn_input.shape[1]
    return -math.log(2) * tokens / log_decay, beta / tokens


def _memory_weights(mixer: GatedDeltaNet, memory: Memory, constant: Tensor | None) -> dict[str, Tensor]:
    write_gate, bias = torch.zeros_like(mixer.b_proj.weight), write_gate_bias_of(memory.beta)
    if constant is None:
        written = {"b_proj.weight": write_gate, "b_proj.bias": bias}
    else:
        written = {"b_proj.weight": folded_bias(write_gate, bias, constant)}
    return written | {
        "A_log": torch.zeros_like(mixer.A_log),
        "dt_bias": dt_bias_of(memory.half_life),
        "a_proj.weight": torch.zeros_like(mixer.a_proj.weight),
    }


def _gate_weights(gate: OutputGate, mixer: GatedDeltaNet) -> dict[str, Tensor]:
    weights = {"g_proj.weight": gate.weight.repeat_interleave(mixer.head_dim, 0)}
    if mixer.g_proj.bias is not None:
        weights["g_proj.bias"] = gate.bias.repeat_interleave(mixer.head_dim, 0)
    return weights
