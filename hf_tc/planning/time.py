# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Time of a conversion: what there is to compute, over how fast this device computed such things just now.

Three speeds are measured, each in well under a second for a small model: a matrix product of the model's width, and per
token the delta rule of one layer, forward (R), and the teacher's attention (A). Per recurrent layer, with the sizes of
`memory.estimate`:

    search           100 R                a token of the first 8,192: candidates of half-life and write gate (30), gates
                                          of each token (70)
    closed form      30 R + FLOPs / speed a token, 65,536 at most; FLOPs: Gram matrices of gate and values, 14 passes of
                                          the query solve
    Gram matrices    (5 H + G) 2/3 C^3    solved in float64, counted twice
    alignment        7 R + 6 P / speed    a token and step
    teacher          0.5 R + A + 2 P' / speed   a token and layer of P' parameters; the perplexity of every stage: A,
                                          and 2 FLOPs a parameter, for each token

It is an estimate of order: on the CPUs tried, times were within a factor of two, on a busy machine they are not.
Loading the teacher and writing the student are not in it.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize, scaled_dot_product_attention

from hf_tc.calibration.solve_order import SEARCH_TOKENS, SOLVED_TOKENS
from hf_tc.config import ConversionConfig
from hf_tc.evaluation.perplexity import EVAL_TOKENS
from hf_tc.memory.estimate import STREAM_BATCH_TOKENS, Widths, streamed_tokens
from hf_tc.modeling.gated_delta_rule import gated_delta_rule

BLOCK_TOKENS = 1024
MEASURING_SECONDS = 0.3
SEARCH_RULES = 100  # delta rules' worth of work a token of the search
CLOSED_FORM_RULES = 30  # delta rules' worth of work a token, beside its matrix products
ALIGNMENT_RULES = 7  # of an alignment step: forward, backward, and what is around the rule
GATE_FITS = 5
QUERY_PASSES = 14
RANGE = (0.5, 2.0)  # the estimate is given as a range from half to twice


@dataclass(frozen=True)
class Speed:
    """Measured on the device: float32 operations a second, the same in the teacher's dtype, R and A in seconds."""

    float32: float
    teacher: float
    rule: float
    attention: float


def measure_speed(
    widths: Widths,
    dtype: torch.dtype,
    device: torch.device,
    sequence_length: int,
    *,
    tokens: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Times matrix products, the delta rule and attention at the model's widths, on random numbers, in seconds of
    `clock`.

    Args:
        sequence_length: tokens of a block of the conversion.
        tokens: how many at most, by default BLOCK_TOKENS, and on a GPU, which these do not keep busy, as many as the
            work comes in. Of a longer block that part is measured, and its attention taken in proportion.
    """
    tokens = tokens or (STREAM_BATCH_TOKENS if device.type == "cuda" else BLOCK_TOKENS)
    length = min(tokens, sequence_length)
    size = (tokens // length, length, widths.heads, widths.head_dim)
    tokens = size[0] * length  # of whole blocks
    q, k, v = (normalize(torch.randn(size, device=device), dim=-1) for _ in "qkv")
    gate = torch.full(size[:3], 0.5, device=device)
    with torch.no_grad():
        rule = _seconds(lambda: gated_delta_rule(q=q, k=k, v=v, log_decay=-gate, beta=gate), device, clock)
        wide, own = (_product_speed(tokens, widths.hidden, kind, device, clock) for kind in (torch.float32, dtype))
        # One K/V head and its queries stand for all: float32 heads that share them may need whole T x T maps.
        share = slice(widths.heads // widths.kv_heads)
        q, k, v = (x.transpose(1, 2).to(dtype) for x in (q[:, :, share], k[:, :, :1], v[:, :, :1]))
        attend = functools.partial(scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=q.shape[1] > 1)
        attention = _seconds(attend, device, clock) * widths.kv_heads * sequence_length / length
    return Speed(float32=wide, teacher=own, rule=rule / tokens, attention=attention / tokens)


def _product_speed(
    tokens: int, width: int, dtype: torch.dtype, device: torch.device, clock: Callable[[], float]
) -> float:
    x = torch.randn(tokens, width, device=device).to(dtype)
    weight = torch.randn(width, width, device=device).to(dtype)
    return 2 * tokens * width**2 / _seconds(lambda: x @ weight, device, clock)


def _seconds(work: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    """The shortest of at least three runs, and of as many as fit in MEASURING_SECONDS."""
    begun, runs = clock(), list[float]()
    while len(runs) < 3 or clock() - begun < MEASURING_SECONDS:
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        runs.append(clock() - start)
    return min(runs)


def seconds_by_part(
    widths: Widths, settings: ConversionConfig, layers: int, converted: int, head_parameters: int, speed: Speed
) -> dict[str, float]:
    """Seconds of the parts of a conversion: teacher, closed_form, alignment, perplexity.

    Args:
        layers, converted: decoder layers of the teacher, and how many become recurrent.
        head_parameters: of the language model head, which the perplexity needs as well. It is taken on the held-out
            share of the text; other evaluation text may be longer, up to EVAL_TOKENS.
    """
    w, tokens = widths, settings.calibration_tokens
    products = 2 * w.hidden**2 * (GATE_FITS * w.heads + w.heads) + QUERY_PASSES * 4 * w.hidden * w.inner
    products += 2 * w.inner * (w.inner + w.hidden) + 8 * w.mixer_parameters
    solves = 2 * (GATE_FITS * w.heads + w.kv_heads) * 2 / 3 * w.hidden**3
    search = SEARCH_RULES * min(SEARCH_TOKENS, tokens) * speed.rule
    per_token = CLOSED_FORM_RULES * speed.rule + products / speed.float32
    closed_form = search + min(SOLVED_TOKENS, tokens) * per_token + solves / speed.float32
    streamed = streamed_tokens(settings)
    step_tokens = min(streamed, settings.alignment.step_tokens(settings.sequence_length))
    step_token = ALIGNMENT_RULES * speed.rule + 6 * w.mixer_parameters / speed.float32
    ladder = min(EVAL_TOKENS, max(settings.sequence_length, settings.held_out_fraction * tokens))
    # The teacher, and the student at three stages.
    measured = 4 * 2 * (layers * w.layer_parameters + head_parameters) / speed.teacher
    measured += (4 * layers - 3 * converted) * speed.attention + 3 * converted * speed.rule
    return {
        "teacher": streamed * layers * (0.5 * speed.rule + speed.attention + 2 * w.layer_parameters / speed.teacher),
        "closed_form": converted * closed_form,
        "alignment": converted * settings.alignment.steps * step_tokens * step_token,
        "perplexity": ladder * measured,
    }
