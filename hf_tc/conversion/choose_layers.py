# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which layers of this teacher keep attention? A policy measures, on candidates that were solved in closed form."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from hf_tc.config import DEFAULT_POLICY, ConversionConfig
from hf_tc.conversion.checkpoint import conversion_arguments
from hf_tc.conversion.run import Conversion
from hf_tc.layer_selection.hybrid import hybrids_of
from hf_tc.layer_selection.policies import MEASURING_POLICIES, SELECTION_TOKENS, checked_indices
from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.score_log import ScoreLog
from hf_tc.layer_selection.selection import LayerSelection
from hf_tc.layer_selection.uniform import retained_count, uniform
from hf_tc.memory.estimate import blocks_at_once
from hf_tc.modeling.teacher_attention import find_decoder_layers

SCORES, CANDIDATES = "scores", "candidates"  # folders in that of the selection


def choose_layers(
    teacher: PreTrainedModel,
    blocks: Tensor,
    retained_layers: float | Sequence[int] | LayerSelection,
    policy: str | None,
    settings: ConversionConfig,
    folder: str | Path,
) -> LayerSelection:
    """The layers to retain, from a share and a policy, from a list, or from an earlier selection.

    Args:
        teacher: in eval mode; it is only read.
        blocks: calibration tokens `[N, T]`, the held-out ones last; layers are compared on the last of them.
        retained_layers, policy: what `check_policy` accepts; None is the default policy.
        settings: of the conversion; candidates are calibrated in closed form whatever its alignment.
        folder: where candidates and scores are kept, as `scores` and `candidates`.

    Raises:
        ValueError: an index that the teacher does not have, or a folder of another selection.
    """
    layers = len(find_decoder_layers(teacher.base_model))
    if isinstance(retained_layers, LayerSelection):
        return replace(retained_layers, retained_layers=list(checked_indices(retained_layers.retained_layers, layers)))
    if not isinstance(retained_layers, int | float):
        return LayerSelection("list", list(checked_indices(retained_layers, layers)))
    policy, count = policy or DEFAULT_POLICY, retained_count(float(retained_layers), layers)
    if policy in MEASURING_POLICIES and 0 < count < layers:
        return _measured(teacher, blocks, policy, count, settings, Path(folder))
    return LayerSelection(policy, list(uniform(float(retained_layers), layers)))


def _measured(
    teacher: PreTrainedModel, blocks: Tensor, policy: str, count: int, settings: ConversionConfig, folder: Path
) -> LayerSelection:
    rank, meaning, calibrates = MEASURING_POLICIES[policy]
    settings, length, seconds = settings.closed_form_alone(), blocks.shape[1], 0.0
    compared, student = blocks[-max(1, SELECTION_TOKENS // length) :], None
    if calibrates:
        candidates = Conversion(teacher, blocks, (), settings, folder / CANDIDATES, share_weights=True)
        candidates.fit_layers()
        candidates.load_stage("closed_form")
        seconds = sum(candidates.checkpoint.row(layer).seconds for layer in candidates.linear_layers)
        student, arguments = candidates.student, candidates.checkpoint.arguments
    else:
        arguments = conversion_arguments(teacher, blocks, (), asdict(settings))
    log = ScoreLog(folder / SCORES, arguments)
    probe = Probe(teacher, compared, blocks_at_once(length), log)
    with ExitStack() as stack:
        stack.callback(probe.progress.close)
        if student is not None:
            probe.hybrid = stack.enter_context(hybrids_of(student, teacher))
        ranking = rank(probe, count)
    return LayerSelection(
        policy=policy,
        retained_layers=sorted(layer for layer, _ in ranking[:count]),
        ranking=[layer for layer, _ in ranking],
        scores=[score if math.isfinite(score) else None for _, score in ranking],
        score_meaning=meaning,
        forwards=probe.forwards,
        tokens=compared.numel(),
        seconds=seconds + probe.seconds,
    )
