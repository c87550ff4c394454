# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Greedy orders where the score of every set of converted layers is known."""

from collections.abc import Iterable

import pytest
from benchmarks.retain_greedily import retain_greedily

from hf_tc.layer_selection.greedy import convert_greedily

COSTS = {0: 5.0, 1: 1.0, 2: 3.0, 3: 0.5}


def additive(converted: Iterable[int]) -> float:
    return sum(COSTS[layer] for layer in converted)


def with_substitutes(converted: Iterable[int]) -> float:
    """Layers 1 and 3 do the same: either can be converted for little, both together cost most."""
    return additive(converted) + (10.0 if {1, 3} <= set(converted) else 0.0)


def test_scores_that_add_up_give_the_order_of_single_costs() -> None:
    assert [layer for layer, _ in convert_greedily(additive, COSTS, 1)] == [0, 2, 1, 3]
    assert [layer for layer, _ in retain_greedily(additive, COSTS, 4)] == [0, 2, 1, 3]


def test_scores_are_those_of_the_growing_hybrid() -> None:
    assert convert_greedily(additive, COSTS, 1) == [(0, 9.5), (2, 4.5), (1, 1.5), (3, 0.5)]
    assert retain_greedily(additive, COSTS, 4) == [(0, 4.5), (2, 1.5), (1, 0.5), (3, 0.0)]


def test_retained_layers_are_ranked_by_what_converting_each_next_costs() -> None:
    assert convert_greedily(additive, COSTS, 3) == [(0, 5.5), (2, 3.5), (1, 1.5), (3, 0.5)]
    assert retain_greedily(additive, COSTS, 1) == [(0, 4.5), (2, 6.5), (1, 8.5), (3, 9.0)]


def test_layers_that_make_up_for_one_another_are_not_both_given_up() -> None:
    single = sorted(COSTS, key=lambda layer: -with_substitutes([layer]))
    assert set(single[:2]) == {0, 2}  # ranked once: 1 and 3 would both go
    assert {layer for layer, _ in convert_greedily(with_substitutes, COSTS, 2)[:2]} == {0, 1}
    assert {layer for layer, _ in retain_greedily(with_substitutes, COSTS, 2)[:2]} == {0, 1}


@pytest.mark.parametrize("count", range(5))
def test_measurements(count: int) -> None:
    asked: list[tuple[int, ...]] = []

    def score(converted: Iterable[int]) -> float:
        asked.append(tuple(converted))
        return additive(asked[-1])

    ranking = convert_greedily(score, COSTS, count)
    assert len(asked) == sum(range(max(count, 1), 5))
    assert sorted(layer for layer, _ in ranking) == [0, 1, 2, 3]


def test_equal_scores_are_broken_by_the_order_of_layers() -> None:
    assert [layer for layer, _ in convert_greedily(lambda converted: 0.0, range(3), 1)] == [0, 1, 2]
