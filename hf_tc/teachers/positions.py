# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How many positions a model was trained for, asked of its configuration, and whether sequences fit them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from hf_tc.teachers.adapters import adapter_base


def check_fits(
    models: Mapping[str, Any], length: int, given: str = "", way_out: str = "Set sequence_length (--sequence-length) to"
) -> None:
    """Raises `ValueError` where a model has fewer positions than a sequence has tokens.

    Args:
        models: by role; each as in `most_positions`, or None.
        given: what is so long, where that is not `sequence_length`.
        way_out: what to do, up to the number of tokens.
    """
    known = {role: most_positions(model) for role, model in models.items() if model is not None}
    for role, most in known.items():
        if most is not None and most < length:
            least = min(found for found in known.values() if found is not None)
            raise ValueError(
                f"{given or f'sequence_length is {length}'}, and the {role} has {most} positions "
                f"(max_position_embeddings): a sequence must not be longer. {way_out} {least} or less."
            )


def most_positions(model: Any) -> int | None:
    """Positions of a model, a configuration, a folder or a Hub id, with those that a scaling of its rotary embeddings
    adds; None where they are not known. Some configurations (cohere) say how long texts may be in
    `model_max_length`."""
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
    if isinstance(model, PreTrainedConfig):
        return model
    if not isinstance(model, str | Path):
        return getattr(model, "config", None)
    base = adapter_base(model)
    try:
        return AutoConfig.from_pretrained(base or model)
    except Exception:  # of a dozen kinds; loading the model names what is wrong with it
        return None
