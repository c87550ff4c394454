# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Rows to sample at once: bounded by memory on a GPU, and counted from the model's own shapes."""

import pytest
from planted import tiny_teacher
from tiny_sizes import HEAD_DIM, SIZES, VOCABULARY

from hf_tc.memory import sampling_rows
from hf_tc.memory.sampling_rows import MOST_ROWS, ROWS_ON_CPU, USED_OF_FREE, row_bytes, rows_at_once


def test_a_row_is_its_keys_values_and_widest_layer() -> None:
    teacher, tokens = tiny_teacher(num_key_value_heads=4), 100
    cached = 2 * 4 * HEAD_DIM * SIZES["num_hidden_layers"]
    of_a_layer = 2 * SIZES["hidden_size"] + 3 * SIZES["intermediate_size"]
    assert row_bytes(teacher, tokens) == 4 * tokens * (cached + of_a_layer) + 9 * tokens**2 + 16 * VOCABULARY


def test_as_many_rows_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_teacher()
    assert rows_at_once(teacher, 100) == ROWS_ON_CPU
    for free_rows, rows in ((0.5, 1), (40.5, 40), (10_000, MOST_ROWS)):
        free = int(free_rows * row_bytes(teacher, 100) / USED_OF_FREE)
        monkeypatch.setattr(sampling_rows, "free_bytes", lambda device, free=free: free)
        assert rows_at_once(teacher, 100) == rows
