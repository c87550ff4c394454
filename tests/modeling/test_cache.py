# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A cached forward equals an uncached one, whatever the cache and however the tokens are cut; rollback is exact."""

import pytest
import torch
from tiny_models import FAMILIES, student, teacher_config, token_ids
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from hf_tc.modeling import GDNCacheLayer
from hf_tc.modeling.cache_adoption import adopt_cache
from hf_tc.modeling.library_cache import cache_argument, cache_of

ATOL = 2e-4  # float32 logits of order 10
ALL = (0, 1, 2, 3)


def new_cache(kind: str, model):
    if kind == "static":
        return StaticCache(config=model.config, max_cache_len=32)
    return DynamicCache() if kind == "plain" else DynamicCache(config=model.config)


def feed(model, ids: torch.Tensor, cache, lengths: list[int]) -> torch.Tensor:
    """Logits of `ids`, given in parts of these lengths."""
    parts = [model(part, **cache_argument(cache)).logits for part in ids.split(lengths, dim=1)]
    return torch.cat(parts, dim=1)


def start_recording(cache) -> None:
    """Lets the cache be rolled back to now; an empty cache must be the student's first."""
    adopt_cache(cache, ALL, 4)
    cache.activate_past_recording()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["plain", "static"])
@pytest.mark.parametrize("linear", [(0, 2), ALL])
def test_prefill_chunk_and_decode_equal_one_forward(family: str, kind: str, linear: tuple[int, ...]) -> None:
    model, ids = student(family, linear), token_ids(2, 14)
    cache = new_cache(kind, model)
    logits = feed(model, ids, cache, [7, 4, 1, 1, 1])
    torch.testing.assert_close(logits, model(ids, use_cache=False).logits, rtol=0, atol=ATOL)
    assert cache.get_seq_length() == 14
    assert [isinstance(layer, GDNCacheLayer) for layer in cache.layers] == [i in linear for i in range(4)]


@pytest.mark.parametrize("kernel", [0, 2, 6])
def test_a_first_part_shorter_than_the_convolution(kernel: int) -> None:
    model, ids = student("qwen2", ALL, conv_kernel_size=kernel), token_ids(1, 9)
    logits = feed(model, ids, DynamicCache(), [1, 2, 6])
    torch.testing.assert_close(logits, model(ids, use_cache=False).logits, rtol=0, atol=ATOL)


def test_a_cache_is_made_by_default() -> None:
    model, ids = student(linear=ALL), token_ids(1, 9)
    cache = cache_of(model(ids[:, :8]))
    torch.testing.assert_close(
        model(ids[:, 8:], **cache_argument(cache)).logits[:, 0], model(ids).logits[:, 8], rtol=0, atol=ATOL
    )
    assert cache_of(model(ids, use_cache=False)) is None


def test_the_memory_does_not_grow() -> None:
    model, cache, sizes = student(linear=ALL), DynamicCache(), []
    for length in (3, 20):
        model(token_ids(1, length), **cache_argument(cache))
        sizes.append([layer.recurrent_state.numel() + layer.conv_state.numel() for layer in cache.layers])
    assert sizes[0] == sizes[1] == [4 * 8 * 8 + 3 * 64] * 4


@pytest.mark.parametrize("kind", ["plain", "static"])
@pytest.mark.parametrize("removed", [1, 5, 6])
@pytest.mark.parametrize("prefilled", [0, 4])
@pytest.mark.parametrize("kernel", [0, 4])
def test_rollback_and_continuation(kind: str, removed: int, prefilled: int, kernel: int) -> None:
    model, ids = student("qwen2", ALL, conv_kernel_size=kernel), token_ids(2, prefilled + 6)
    cache, expected_cache = new_cache(kind, model), new_cache(kind, model)
    if prefilled:
        feed(model, ids[:, :prefilled], cache, [prefilled])
    start_recording(cache)
    feed(model, ids[:, prefilled:], cache, [2, 4])
    cache.crop(-removed)
    kept = prefilled + 6 - removed
    assert cache.get_seq_length() == kept
    if kept:
        feed(model, ids[:, :kept], expected_cache, [kept])
        for layer, expected in zip(cache.layers, expected_cache.layers, strict=True):
            torch.testing.assert_close(layer.recurrent_state, expected.recurrent_state, rtol=0, atol=1e-5)
    new = token_ids(2, 5, seed=9)
    expected_logits = model(torch.cat([ids[:, :kept], new], dim=1), use_cache=False).logits[:, kept:]
    torch.testing.assert_close(feed(model, new, cache, [3, 2]), expected_logits, rtol=0, atol=ATOL)


def test_rollback_twice() -> None:
    model, ids, cache = student("qwen2", ALL), token_ids(1, 12), DynamicCache()
    feed(model, ids[:, :8], cache, [8])
    start_recording(cache)
    feed(model, ids[:, 8:], cache, [4])
    cache.crop(-3)
    feed(model, token_ids(1, 4, seed=5), cache, [4])
    cache.crop(-4)
    logits = feed(model, ids[:, 9:], cache, [3])
    torch.testing.assert_close(logits, model(ids, use_cache=False).logits[:, 9:], rtol=0, atol=ATOL)


def test_rollback_without_a_recording_is_refused() -> None:
    model, cache = student(linear=ALL), DynamicCache()
    model(token_ids(1, 6), **cache_argument(cache))
    with pytest.raises(RuntimeError, match=r"recorded 0 tokens.*activate_past_recording"):
        cache.crop(-1)
    with pytest.raises(ValueError, match=r"negative"):
        cache.layers[0].crop(3)


def test_recording_switched_on_before_the_first_forward() -> None:
    """A cache without recurrent layers yet knows of it through a retained sliding layer, or not at all."""
    model, ids = student("mistral", (0, 2)), token_ids(1, 12)
    cache = DynamicCache(config=model.config)
    cache.activate_past_recording()
    feed(model, ids, cache, [12])
    cache.crop(-4)
    logits = feed(model, ids[:, 8:], cache, [4])
    torch.testing.assert_close(logits, model(ids, use_cache=False).logits[:, 8:], rtol=0, atol=ATOL)

    cache = DynamicCache()
    cache.activate_past_recording()
    feed(model, ids, cache, [12])
    with pytest.raises(RuntimeError, match=r"activate_past_recording\(\) once the cache was in a forward"):
        cache.crop(-4)


@pytest.mark.parametrize("change", ["reorder", "repeat", "select"])
def test_rows_of_the_cache_move_together(change: str) -> None:
    model, ids, new = student("qwen2", ALL), token_ids(3, 7), token_ids(1, 1)
    cache = DynamicCache()
    start_recording(cache)
    model(ids, **cache_argument(cache))
    order = torch.tensor([2, 0, 0])
    if change == "reorder":
        cache.reorder_cache(order)
    elif change == "select":
        cache.batch_select_indices(order)
    else:
        cache.batch_repeat_interleave(2)
        order = torch.tensor([0, 0, 1, 1, 2, 2])
    rows = torch.cat([ids[order], new.expand(len(order), -1)], dim=1)
    logits = model(rows[:, 7:], **cache_argument(cache)).logits
    expected = model(rows, use_cache=False).logits[:, 7:]
    torch.testing.assert_close(logits, expected, rtol=0, atol=ATOL)
    cache.crop(-1)
    torch.testing.assert_close(model(rows[:, 7:], **cache_argument(cache)).logits, expected, rtol=0, atol=ATOL)


def test_reset_forgets() -> None:
    model, ids = student("qwen2", ALL), token_ids(1, 7)
    cache = new_cache("static", model)
    model(token_ids(1, 5, seed=8), **cache_argument(cache))
    cache.reset()
    assert cache.get_seq_length() == 0
    torch.testing.assert_close(
        model(ids, **cache_argument(cache)).logits, model(ids, use_cache=False).logits, rtol=0, atol=ATOL
    )


@pytest.mark.parametrize("kind", ["plain", "static"])
def test_the_cache_of_the_teacher_is_refused(kind: str) -> None:
    teacher = AutoModelForCausalLM.from_config(teacher_config())
    cache = new_cache(kind, teacher)
    teacher(token_ids(1, 5), **cache_argument(cache))
    with pytest.raises(ValueError, match=r"layer 2.*cache of the teacher or of another student"):
        student(linear=(2,))(token_ids(1, 1), **cache_argument(cache))


def test_the_cache_of_another_student_is_refused() -> None:
    cache = DynamicCache()
    student(linear=(2,))(token_ids(1, 5), **cache_argument(cache))
    with pytest.raises(ValueError, match=r"layer 1.*cache of the teacher or of another student"):
        student(linear=(1, 2))(token_ids(1, 1), **cache_argument(cache))
    cache.layers[1] = GDNCacheLayer()
    with pytest.raises(RuntimeError, match=r"layer caches a state.*another model"):
        student(linear=(1,))(token_ids(1, 1), **cache_argument(cache))


def test_more_tokens_than_two_to_the_fifteen() -> None:
    model = student(linear=(0, 1), num_hidden_layers=2, hidden_size=8, num_attention_heads=1, num_key_value_heads=1)
    ids, cache = token_ids(1, 33000), DynamicCache()
    with torch.no_grad():
        for part in ids.split([16000, 16999, 1], dim=1):
            logits = model(part, **cache_argument(cache), logits_to_keep=1).logits
        expected = model(ids, use_cache=False, logits_to_keep=1).logits
    assert cache.get_seq_length() == 33000
    torch.testing.assert_close(logits, expected, rtol=0, atol=ATOL)
