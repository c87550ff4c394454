# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a policy gives: every layer with its score, which may be a sum of parts."""

from collections.abc import Mapping
from typing import NamedTuple


class Ranked(NamedTuple):
    """A layer and the parts of its score, by name."""

    layer: int
    parts: dict[str, float]

    @property
    def score(self) -> float:
        return sum(self.parts.values())


def by_score(parts: Mapping[int, dict[str, float]]) -> list[Ranked]:
    """Layers, the highest score first."""
    return sorted((Ranked(layer, of_layer) for layer, of_layer in parts.items()), key=lambda ranked: -ranked.score)
