# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Whether sequences fit the positions that student and teacher were trained for, asked of their configurations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from hf_tc.distillation.data_settings import DataSettings
from hf_tc.teachers.adapters import adapter_base


def check_rows_fit(models: Mapping[str, Any], settings: DataSettings) -> None:
    """Raises `ValueError` for rows longer than the positions of a model.

    Args:
        models: by role; each a model, a folder, a Hub id, or None.
        settings: in which the longest of all stages counts, which is that of an evaluation too.
    """
    length = settings.row_length
    if settings.curriculum:
        given, way_out = f"curriculum has sequences of {length} tokens", "Give stages (--curriculum) of"
    else:
        given, way_out = f"sequence_length is {length}", "Set sequence_length (--sequence-length) to"
    check_fits(models, length, given, way_out)


def check_fits(models: Mapping[str, Any], length: int, given: str, way_out: str) -> None:
    """Raises `ValueError` where a model has fewer positions than a sequence has tokens; `models` as in
    `check_rows_fit`."""
    known = {role: most_positions(model) for role, model in models.items() if model is not None}
    for role, most in known.items():
        if most is not None and most < length:
            least = min(found for found in known.values() if found is not None)
            raise ValueError(
                f"{given}, and the {role} has {most} positions (max_position_embeddings): a sequence must not be "
                f"longer. {way_out} {least} or less."
            )


def most_positions(model: Any) -> int | None:
    """Positions of a model, a folder or a Hub id, with those that a scaling of its rotary embeddings adds; None where
    they are not known. Some configurations (cohere) say how long texts may be in `model_max_length`."""
    config = _config_of(model)
    if not hasattr(config, "get_text_config"):
        return None
    text: Any = config.get_text_config()
    most = getattr(text, "max_position_embeddings", None)
    if not isinstance(most, int):
        return None
    most = max(most, getattr(text, "model_max_length", None) or 0)
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    parts = [scaling, *(part for part in scaling.values() if isinstance(part, Mapping))]  # one for a kind of layers
    scaled = ((part.get("original_max_position_embeddings") or most, part.get("factor")) for part in parts)
    return max([most, *(int(original * factor) for original, factor in scaled if factor)])


def _config_of(model: Any) -> Any:
    if not isinstance(model, str | Path):
        return getattr(model, "config", None)
    base = adapter_base(model)
    try:
        return AutoConfig.from_pretrained(base or model)
    except Exception:  # of a dozen kinds; loading the model names what is wrong with it
        return None
