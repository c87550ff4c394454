# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which layers keep attention: shares, indices, and what is refused."""

import pytest

from hf_tc.layer_selection.policies import checked_indices
from hf_tc.layer_selection.uniform import retained_count, uniform


@pytest.mark.parametrize(
    ("share", "layers", "expected"),
    [
        (0.25, 12, (0, 4, 8)),
        (0.25, 8, (0, 4)),
        (0.5, 4, (0, 2)),
        (0.3, 10, (0, 3, 6)),
        (0.0, 6, ()),
        (1.0, 6, (0, 1, 2, 3, 4, 5)),
        (1.0, 1, (0,)),
        (0.01, 12, ()),
        (0.75, 4, (0, 1, 2)),
    ],
)
def test_a_share_is_spread_evenly_from_the_first_layer(share: float, layers: int, expected: tuple[int, ...]) -> None:
    assert uniform(share, layers) == expected
    assert retained_count(share, layers) == len(expected)


@pytest.mark.parametrize("layers", range(1, 40))
def test_every_share_gives_distinct_ascending_layers(layers: int) -> None:
    for count in range(layers + 1):
        chosen = uniform(count / layers, layers)
        assert len(chosen) == count
        assert list(chosen) == sorted(set(chosen))
        assert all(0 <= index < layers for index in chosen)
        if count:
            gaps = [b - a for a, b in zip(chosen, (*chosen[1:], layers), strict=True)]
            assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("share", [-0.01, 1.01, 4.0, float("nan"), float("inf")])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"a share must lie in \[0, 1\]"):
        uniform(share, 12)


def test_whole_numbers_are_shares() -> None:
    assert uniform(0, 4) == ()
    assert uniform(1, 4) == (0, 1, 2, 3)
    with pytest.raises(ValueError, match=r"\[0, 4, 8\]"):
        uniform(4, 12)


def test_indices_are_taken_in_ascending_order() -> None:
    assert checked_indices([8, 0, 4], 12) == (0, 4, 8)
    assert checked_indices((), 12) == ()
    assert checked_indices(range(3), 3) == (0, 1, 2)


@pytest.mark.parametrize("index", [-1, 12, 100])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=rf"{index}; the teacher has 12 layers \(0-11\)"):
        checked_indices([0, index], 12)


def test_an_index_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"contains \[3, 5\] more than once"):
        checked_indices([5, 3, 0, 3, 5], 12)
