# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""From which context on the cache of a student is the smaller one."""

from hf_tc.memory.cache_size import CacheSizes, KeyValueShape


def sizes_of(*windows: int | None, retained: tuple[int, ...], state: int) -> CacheSizes:
    return CacheSizes(tuple(KeyValueShape(2, 4, window) for window in windows), retained, 2, state)


def test_break_even_is_the_first_context_with_a_smaller_cache() -> None:
    # 2 x 2 x 4 values of 2 bytes are 32 bytes a token and layer.
    assert sizes_of(None, None, retained=(0,), state=32 * 100).break_even_tokens == 101
    assert sizes_of(None, None, retained=(0,), state=32 * 100 - 1).break_even_tokens == 100
    assert sizes_of(None, 11, retained=(0,), state=32 * 10).break_even_tokens is None
    assert sizes_of(None, 11, retained=(0,), state=32 * 10 - 1).break_even_tokens == 10
    assert sizes_of(None, retained=(0,), state=0).break_even_tokens is None
    assert sizes_of(None, 11, None, retained=(1, 2), state=7).growth == (2 * 32_000, 32_000)
