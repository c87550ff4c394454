# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which layers of this teacher keep attention? A policy measures, on candidates that were solved in closed form."""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from transformers.utils import logging

from hf_tc.config import DEFAULT_POLICY
from hf_tc.conversion.checkpoint import CANDIDATES, SCORES
from hf_tc.conversion.layer_by_layer import fit_layers, load_stage
from hf_tc.conversion.task import ConversionTask
from hf_tc.layer_selection.hybrid import Hybrid, hybrids_of
from hf_tc.layer_selection.policies import MEASURING_POLICIES, SELECTION_TOKENS, checked_indices
from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.score_log import ScoreLog
from hf_tc.layer_selection.uniform import retained_count, uniform
from hf_tc.memory.estimate import blocks_at_once
from hf_tc.modeling.out_of_memory import memory_advice
from hf_tc.selection import LayerSelection
from hf_tc.teachers.new_student import restore_attention

logger = logging.get_logger(__name__)


def choose_layers(task: ConversionTask) -> LayerSelection:
    """The layers to retain, from a share and a policy, from a list, or from an earlier selection. Warns of a share that
    rounds to none or all.

    Candidates and scores of a policy that measures are kept in the task's folder.

    Raises:
        ValueError: an index that the teacher does not have, or a folder of another selection.
    """
    retained, layers = task.settings.selection.retained_layers, task.num_layers
    if isinstance(retained, LayerSelection):
        return replace(retained, retained_layers=list(checked_indices(retained.retained_layers, layers)))
    if not isinstance(retained, int | float):
        return LayerSelection("list", list(checked_indices(retained, layers)))
    policy, count = task.settings.selection.layer_policy or DEFAULT_POLICY, retained_count(float(retained), layers)
    if (retained > 0 and count == 0) or (retained < 1 and count == layers):
        logger.warning(
            f"retained_layers is {retained:g}, which of {layers} layers rounds to {count}: "
            f"{'none keeps' if count == 0 else 'all keep'} attention. The share of one layer is {1 / layers:.3g}."
        )
    if policy in MEASURING_POLICIES and 0 < count < layers:
        with task.clock.stage("selection"):
            return _measured(task, policy, count)
    return LayerSelection(policy, list(uniform(float(retained), layers)))


def _measured(task: ConversionTask, policy: str, count: int) -> LayerSelection:
    how = MEASURING_POLICIES[policy]
    length = task.blocks.shape[1]
    compared = task.blocks[-max(1, SELECTION_TOKENS // length) :]
    with ExitStack() as stack:
        hybrid, seconds = stack.enter_context(_candidates(task)) if how.calibrates else (None, 0.0)
        log = ScoreLog(task.folder / SCORES, task.record((), task.settings.closed_form_alone()))
        probe = Probe(task.teacher, compared, blocks_at_once(length), log, hybrid, task.start)
        stack.callback(probe.progress.close)
        with memory_advice('Set a shorter sequence_length, or layer_policy="uniform", which measures nothing.'):
            ranking = how.rank(probe, count)
    layers, names = [ranked.layer for ranked in ranking], list(ranking[0].parts)
    return LayerSelection(
        policy=policy,
        retained_layers=sorted(layers[:count]),
        ranking=layers,
        scores=_finite(ranked.score for ranked in ranking),
        components={name: _finite(ranked.parts[name] for ranked in ranking) for name in names if len(names) > 1},
        score_meaning=how.score_meaning,
        forwards=probe.forwards,
        tokens=compared.numel(),
        seconds=seconds + probe.seconds,
    )


def _finite(scores: Iterable[float]) -> list[float | None]:
    return [score if math.isfinite(score) else None for score in scores]


@contextmanager
def _candidates(task: ConversionTask) -> Iterator[tuple[Hybrid, float]]:
    """Hybrids of layers in closed form, and the seconds that solving them took; afterwards no layer is recurrent."""
    layers, settings = range(task.num_layers), task.settings.closed_form_alone()
    attention = task.make_recurrent(layers)
    try:
        checkpoint = task.checkpoint(task.folder / CANDIDATES, settings)
        fit_layers(task, settings, checkpoint)
        load_stage(task.student, checkpoint, "closed_form")
        with hybrids_of(task.student, task.teacher) as hybrid:
            yield hybrid, sum(checkpoint.row(layer).seconds for layer in layers)
    finally:
        restore_attention(task.student, attention)
