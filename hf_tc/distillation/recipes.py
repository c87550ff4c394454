# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Recipes of a distillation: settings that belong together, as data, and where they are from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

DEFAULT_RECIPE = "fast"


class Recipe(NamedTuple):
    """Fields of `DistillationConfig`, and where their values are from."""

    settings: Mapping[str, Any]
    source: str


# Of every run: what is logged, what is kept to go on from, and once through the data.
EVERY_RUN: Mapping[str, Any] = {
    "num_train_epochs": 1,
    "seed": 0,
    "logging_steps": 1 / 50,
    "save_steps": 1 / 10,
    "save_total_limit": 2,
    "report_to": ["none"],
}

RECIPES: Mapping[str, Recipe] = {
    "fast": Recipe(
        {
            "sequence_length": 1024,
            "per_device_train_batch_size": 8,
            "learning_rate": 3e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.05,
            "repeated_passages": 0.25,
        },
        "hf_tc's own, for 1 to 20 million tokens on one device: rates far above the paper's, brought down to 0, and as "
        "many repeated passages as in joint alignment",
    ),
    "paper": Recipe(
        {
            "sequence_length": 4096,
            "per_device_train_batch_size": 32,
            "learning_rate": 7e-6,
            "gate_learning_rate": 1e-4,
            "lr_scheduler_type": "constant",
            "adam_beta1": 0.9,
            "adam_beta2": 0.95,
            "max_grad_norm": 1.0,
        },
        "Taylor-Calibrate (arXiv 2606.16429), its KL stage of 600 million tokens",
    ),
    "long": Recipe(
        {
            "curriculum": ["0.5:512", "0.5:16384"],
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 4,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr": 1e-5},
            "warmup_steps": 0.05,
        },
        "HALO / HypeNet: 0.98 billion tokens in sequences of 512 from 1e-4 to 1e-5, then 1.05 billion of 16,384 (there "
        "by cross-entropy); batch and warm-up are hf_tc's own",
    ),
}


def settings_of(recipe: str) -> dict[str, Any]:
    """All that a recipe sets. Raises `ValueError` for a name that is none."""
    if recipe not in RECIPES:
        raise ValueError(f"recipe is {recipe!r}; it must be one of {', '.join(RECIPES)}.")
    return {**EVERY_RUN, **RECIPES[recipe].settings}
