# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One layer of a conversion: solve it, align it, say what came of it."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_tc.alignment.layerwise import align_layer, held_out_error
from hf_tc.calibration.capture_attention import CapturedAttention
from hf_tc.calibration.output_projection import value_scale
from hf_tc.calibration.solve_order import SOLVED_TOKENS, GDNInitialization, apply, solve
from hf_tc.config import AlignmentConfig
from hf_tc.conversion.stage_clock import StageClock
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.report.records import LayerReport

# One more whenever layers come out otherwise for the same text and settings: unfinished work of another way is refused,
# or a student would be half the one and half the other.
WAY_OF_FITTING = 3


@dataclass
class LayerText:
    """What the teacher's attention in one layer did.

    Attributes:
        captured: on the blocks to align with: the text, then its corrupted windows.
        text_blocks: how many of these are the text itself, which alone is solved on, or as many as hold SOLVED_TOKENS.
        held_out: on blocks that no fit sees.
        softmax: scaling and window of the teacher's attention, see `attention_statistics`.
        attention: `teachers_mixer`, where the student's form leaves out norms or biases of the teacher's q and k.
    """

    captured: CapturedAttention
    text_blocks: int
    held_out: CapturedAttention
    softmax: dict[str, Any]
    attention: GatedDeltaNet | None = None


@dataclass
class FittedLayer:
    """Weights of a mixer by stage ("closed_form", "aligned"), in its dtypes, and its row of the report."""

    weights: dict[str, dict[str, Tensor]]
    row: LayerReport


def fit_layer(
    target: GatedDeltaNet,
    text: LayerText,
    settings: AlignmentConfig,
    seed: int,
    clock: StageClock,
    *,
    solved: FittedLayer | None = None,
    on_step: Callable[[], Any] = lambda: None,
) -> FittedLayer:
    """Fits a copy of a mixer fresh from the teacher's projections; the row's seconds are left to the caller.

    Args:
        solved: a closed form of this layer from the same text, which then is not solved again.
        on_step: called after the closed form and after each step of the alignment.
    """
    with clock.stage("solve"):
        mixer = copy.deepcopy(target).to(text.captured.attn_input.device).float().requires_grad_(False)
        teacher_weight, error_copied = mixer.o_proj.weight.clone(), held_out_error(mixer, text.held_out)
        if solved is not None:
            mixer.load_state_dict(solved.weights["closed_form"])
            row = solved.row
        else:
            row = _solve(mixer, text)
        row.error_copied, closed_form = error_copied, _weights_as(target, mixer)
    on_step()
    if settings.steps:
        with clock.stage("align"):
            row.error_aligned = align_layer(mixer, text.captured, text.held_out, settings, seed, on_step=on_step)
    row.value_scale = value_scale(mixer.o_proj.weight, teacher_weight, mixer.num_heads).mean().item()
    row.output_gate = _mean_gate(mixer, text.captured)
    return FittedLayer({"closed_form": closed_form, "aligned": _weights_as(target, mixer)}, row)


def _solve(mixer: GatedDeltaNet, text: LayerText) -> LayerReport:
    """Gives a mixer its closed form; returns its row, without what was before and comes after."""
    blocks = min(text.text_blocks, max(1, SOLVED_TOKENS // text.captured.attn_input.shape[1]))
    attention = text.attention
    if attention is not None:
        attention = attention.to(text.captured.attn_input.device).float().requires_grad_(False)
    initialization = solve(mixer, text.captured.first(blocks), **text.softmax, attention=attention)
    apply(mixer, initialization.weights)
    return LayerReport(
        layer=mixer.layer_idx,
        **_memory_of(initialization),
        value_scale=math.nan,
        output_gate=math.nan,
        error_copied=math.nan,
        error_closed_form=held_out_error(mixer, text.held_out),
        error_aligned=math.nan,
        seconds=0.0,
    )


def _weights_as(target: GatedDeltaNet, mixer: GatedDeltaNet) -> dict[str, Tensor]:
    """The mixer's weights in the dtypes of `target`, which they are meant for."""
    dtypes = {name: value.dtype for name, value in target.state_dict().items()}
    return {name: value.to(dtypes[name], copy=True) for name, value in mixer.state_dict().items()}


def _memory_of(initialization: GDNInitialization) -> dict[str, Any]:
    statistics = initialization.statistics
    return {
        "mean_attention_distance": statistics.mean_attention_distance.mean().item(),
        "attention_entropy": statistics.attention_entropy.mean().item(),
        "timescale_tokens": initialization.half_life.median().item(),
        "beta": initialization.beta.mean().item(),
        "head_distances": statistics.mean_attention_distance.tolist(),
        "head_half_lives": initialization.half_life.tolist(),
        "head_betas": initialization.beta.tolist(),
    }


@torch.no_grad()
def _mean_gate(mixer: GatedDeltaNet, captured: CapturedAttention) -> float:
    return torch.nn.functional.silu(mixer.g_proj(captured.attn_input[:1])).mean().item()
