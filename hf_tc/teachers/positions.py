# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How many positions a model was trained for, asked of its configuration, and whether sequences fit them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging

from hf_tc.teachers.adapters import adapter_base

logger = logging.get_logger(__name__)

EXTENDING = ("linear", "dynamic", "yarn")  # of llama3 and longrope `max_position_embeddings` counts the scaling
RECURRENT = ("rwkv",)  # what it calls its context is not a limit


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
                f"{given or f'sequence_length is {length}'}, and the {role} has {most} positions: a sequence must not "
                f"be longer. {way_out} {least} or less."
            )


def check_has_positions(models: Mapping[str, Any], length: int) -> None:
    """The same for a measurement, in which rotary embeddings go on beyond what a model was trained for: of those it
    warns, and raises where a table of positions ends."""
    rotary = {role: model for role, model in models.items() if _is_rotary(model)}
    check_fits({role: model for role, model in models.items() if role not in rotary}, length)
    for role, model in rotary.items():
        most = most_positions(model)
        if most is not None and most < length:
            logger.warning_once(  # a student is measured many times on its way
                f"sequence_length is {length}, and the {role} has {most} positions: its figures are of longer texts "
                "than it was made for."
            )


def most_positions(model: Any) -> int | None:
    """Positions of a model, a configuration, a folder or a Hub id, with those that a scaling of its rotary embeddings
    adds; None where there is no such number or it limits nothing (biases by distance, recurrence).

    Some configurations (cohere) say how long texts may be in `model_max_length`. Whether `max_position_embeddings`
    counts a linear or dynamic scaling already differs from model to model, so there it is the larger number.
    """
    text = _text_config_of(model)
    most = getattr(text, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1 or getattr(text, "alibi", False) or text.model_type in RECURRENT:
        return None
    known = [most, getattr(text, "model_max_length", None)]
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    parts = [scaling, *(part for part in scaling.values() if isinstance(part, Mapping))]  # one for a kind of layers
    return max(*(number for number in known if isinstance(number, int)), *(_scaled(part, most) for part in parts))


def _scaled(scaling: Mapping[str, Any], most: int) -> int:
    factor = scaling.get("factor")
    if not isinstance(factor, int | float) or scaling.get("rope_type", scaling.get("type")) not in EXTENDING:
        return most
    return int((scaling.get("original_max_position_embeddings") or most) * factor)


def _is_rotary(model: Any) -> bool:
    return getattr(_text_config_of(model), "rope_parameters", None) is not None


def _text_config_of(model: Any) -> Any:
    config = _config_of(model)
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else None


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
