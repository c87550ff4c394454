# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A conversion in a few sentences, and what was done to the student after it."""

import math
import os
from pathlib import Path
from typing import Any

from hf_tc.report.records import ERROR, known_by_stage, words


def summary(report: dict[str, Any], layer_count: int) -> str:
    """The conversion in a few sentences, and what was done to the student after it."""
    return " ".join([*_conversion(report, layer_count), *_aftermath(report)])


def _conversion(report: dict[str, Any], layer_count: int) -> list[str]:
    linear, known = report.get("linear_layers"), known_by_stage(report.get("perplexity") or {})
    if linear is None:
        return []
    name = f"`{teacher_name(report)}`" if report.get("teacher") else "the teacher"
    sentences = [
        f"{len(linear)} of the {layer_count} attention layers of {name} became Gated DeltaNet, calibrated on "
        f"{report.get('calibration_tokens') or 0:,} tokens of {report.get('data') or 'text'}."
    ]
    if "teacher" in known and len(known) > 1:
        teacher, (stage, value) = known["teacher"], list(known.items())[-1]
        sentences.append(
            f"On {report.get('perplexity_tokens') or 0:,} held-out tokens the student ({words(stage)}) has "
            f"{value / teacher:.3g} times the teacher's perplexity: {value:,.2f} against {teacher:,.2f}."
        )
    errors = _last_errors(report.get("layers") or [])
    if len(errors) > 1:
        worst, best = max(errors, key=errors.__getitem__), min(errors, key=errors.__getitem__)
        sentences.append(
            f"Layer {worst} lost the most of what its attention said ({errors[worst]:.3f}), layer {best} the least "
            f"({errors[best]:.3f})."
        )
    return sentences


def _aftermath(report: dict[str, Any]) -> list[str]:
    sentences, tokens, steps = [], report.get("distilled_tokens"), report.get("distilled_steps")
    if tokens or steps:
        amount = (f" on {tokens:,} tokens" if tokens else "") + (f" in {steps:,} steps" if steps else "")
        sentences.append(f"Then the student was distilled{amount}.")
        sentences += _since_then(report.get("evaluation"))
    if report.get("changed") and not report.get("student_weights"):
        sentences.append("It was not recorded whether the weights are still those that the conversion gave it.")
    elif report.get("changed") and not sentences:
        sentences.append("Since then the student was trained further or changed in another way.")
    if report.get("changed"):
        sentences.append(report["changed"])
    return sentences


def _since_then(evaluation: dict[str, Any] | None) -> list[str]:
    """What the last evaluation says of perplexity, in a sentence."""
    if not evaluation or not evaluation["figures"].get("teacher_perplexity"):
        return []
    figures = evaluation["figures"]
    student, teacher = figures["perplexity"], figures["teacher_perplexity"]
    return [
        f"On {figures['tokens']:,} tokens of {evaluation['data']} it now has {student / teacher:.3g} times the "
        f"teacher's perplexity: {student:,.2f} against {teacher:,.2f}."
    ]


def _last_errors(layers: list[dict[str, Any]]) -> dict[int, float]:
    """The error of each layer at the last stage it was measured at."""
    last = {row["layer"]: [row[key] for key in row if key.startswith(ERROR) and is_known(row[key])] for row in layers}
    return {layer: errors[-1] for layer, errors in last.items() if errors}


def teacher_name(report: dict[str, Any]) -> str:
    """The teacher as it may be published: of a folder its name alone."""
    teacher = str(report.get("teacher") or "")
    return Path(teacher).name if is_local(teacher) else teacher


def is_local(teacher: str) -> bool:
    """Whether this is a folder rather than a Hub id."""
    return os.path.isabs(teacher) or teacher.startswith((".", "~")) or os.path.isdir(teacher)


def is_known(value: Any) -> bool:
    """Whether a figure was measured."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
