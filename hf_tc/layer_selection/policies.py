# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The policies that measure, and the one entry: which layers of this teacher keep attention?"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from hf_tc.config import ConversionSettings
from hf_tc.conversion.checkpoint import conversion_arguments
from hf_tc.conversion.run import Conversion
from hf_tc.layer_selection import bypass, greedy, kl
from hf_tc.layer_selection.hybrid import hybrids_of
from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.score_log import ScoreLog
from hf_tc.layer_selection.selection import LayerSelection
from hf_tc.layer_selection.uniform import retained_count, uniform
from hf_tc.modeling.teacher_attention import find_decoder_layers
from hf_tc.planning.memory import blocks_at_once

SELECTION_TOKENS = 16_384  # tokens on which layers are compared
SCORES, CANDIDATES = "scores", "candidates"  # folders in that of the selection


class Policy(NamedTuple):
    """How layers are compared.

    `rank(probe, count)` gives all layers with their scores, the most worth retaining first; `calibrates` says whether
    it asks the probe for hybrids.
    """

    rank: Callable[[Probe, int], list[tuple[int, float]]]
    score_meaning: str
    calibrates: bool


MEASURING_POLICIES = {
    "bypass": Policy(bypass.rank, bypass.SCORE, calibrates=False),
    "greedy": Policy(greedy.rank, greedy.SCORE, calibrates=True),
    "kl": Policy(kl.rank, kl.SCORE, calibrates=True),
}
POLICIES = ("uniform", *MEASURING_POLICIES)
DEFAULT_POLICY = "kl"


def check_policy(retained_layers: float | Sequence[int] | LayerSelection, policy: str | None) -> None:
    """Raises `ValueError` for an unknown policy, for one beside a list of layers, and for a share outside [0, 1]."""
    if policy is not None and policy not in POLICIES:
        raise ValueError(f"layer_policy is {policy!r}; it must be one of {', '.join(POLICIES)}.")
    if isinstance(retained_layers, str):
        raise ValueError(
            f"retained_layers is {retained_layers!r}; give a share or a list, and a policy as layer_policy."
        )
    if isinstance(retained_layers, int | float):
        retained_count(float(retained_layers), 1)
    elif policy is not None:
        raise ValueError(
            f"layer_policy is {policy!r} and retained_layers names the layers already. Give a share, or leave "
            "layer_policy out."
        )


def checked_indices(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """A given choice of layers, ascending.

    Raises:
        ValueError: an index out of range, or twice in the list.
    """
    for index in layers:
        if not 0 <= index < num_layers:
            raise ValueError(
                f"retained_layers contains {index}; the teacher has {num_layers} layers (0-{num_layers - 1})."
            )
    repeated = sorted({index for index in layers if list(layers).count(index) > 1})
    if repeated:
        raise ValueError(f"retained_layers contains {repeated} more than once; give each layer once.")
    return tuple(sorted(layers))


def choose_layers(
    teacher: PreTrainedModel,
    blocks: Tensor,
    retained_layers: float | Sequence[int] | LayerSelection,
    policy: str | None,
    settings: ConversionSettings,
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
    teacher: PreTrainedModel, blocks: Tensor, policy: str, count: int, settings: ConversionSettings, folder: Path
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
