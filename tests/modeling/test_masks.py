# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Padding never reaches a state, and packed documents never see each other."""

import pytest
import torch
from tiny_models import FAMILIES, logits_in_chunks, packed_row, pad_rows, student, token_ids
from transformers import DataCollatorWithFlattening, DynamicCache, StaticCache

from hf_tc.modeling.library_cache import cache_argument, cache_of
from hf_tc.modeling.masks import RecurrentMask, packed_positions, padding_of

LINEAR = [(0, 2), (0, 1, 2, 3)]
LENGTHS = [5, 1, 9, 3]
ATOL = 2e-4  # float32 logits of order 10; a leak is of order 1


def empty_cache(kind: str, model):
    if kind == "static":
        return StaticCache(config=model.config, max_cache_len=20)
    return DynamicCache()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("left", [(0, 7), (0, 0), (3, 2)])
@pytest.mark.parametrize("cache", [None, "static"])
def test_padded_rows_equal_single_rows(family: str, left: tuple[int, int], cache: str | None) -> None:
    model, rows = student(family), [token_ids(9, seed=3), token_ids(5, seed=4)]
    ids, mask = pad_rows(rows, list(left), 12)
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    past = None if cache is None else empty_cache(cache, model)
    logits = model(
        ids, attention_mask=mask, position_ids=position_ids, **cache_argument(past), use_cache=cache is not None
    ).logits
    for i, row in enumerate(rows):
        expected = model(row[None], use_cache=False).logits[0]
        torch.testing.assert_close(logits[i, left[i] : left[i] + len(row)], expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe"])
def test_what_stands_in_padding_does_not_matter(family: str) -> None:
    model = student(family, linear=(0, 1, 2, 3))
    ids, mask = pad_rows([token_ids(6)], [4], 12)
    expected = model(ids, attention_mask=mask).logits[:, 4:10]
    ids[mask == 0] = 17
    # Not bit-equal with experts: what is grouped with a token depends on the others.
    torch.testing.assert_close(model(ids, attention_mask=mask).logits[:, 4:10], expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_padding_leaves_state_and_gradients_alone(family: str) -> None:
    model, row = student(family, linear=(0, 1)).train(), token_ids(6)
    states, gradients = [], []
    for left in (0, 5):
        ids, mask = pad_rows([row], [left], 6 + left)
        cache = DynamicCache()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, left] = -100  # the last padding would predict it
        model.zero_grad()
        arguments = dict(attention_mask=mask, position_ids=positions, **cache_argument(cache), use_cache=True)
        model(ids, labels=labels, **arguments).loss.backward()
        states.append(cache.layers[1].recurrent_state.detach())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-5)
    for name, gradient in gradients[0].items():
        assert (gradients[1][name] - gradient).norm() <= 1e-3 * gradient.norm(), name


def flattened(kind: str) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Documents, and one row that holds them all, as positions that restart or as the collator's boundaries."""
    rows = [token_ids(length, seed=length) for length in LENGTHS]
    if kind == "position_ids":
        return rows, packed_row(rows)
    collator = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_position_ids=kind == "both")
    batch = collator([{"input_ids": row.tolist()} for row in rows])
    return rows, {name: value for name, value in batch.items() if name != "labels"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("linear", LINEAR)
@pytest.mark.parametrize("kind", ["position_ids", "both"])
def test_packed_documents_equal_documents_apart(family: str, linear: tuple[int, ...], kind: str) -> None:
    model = student(family, linear)
    rows, packed = flattened(kind)
    logits = model(**packed).logits[0]
    expected = torch.cat([model(row[None]).logits[0] for row in rows])
    torch.testing.assert_close(logits, expected, rtol=0, atol=ATOL)


def test_boundaries_alone_separate_documents_in_recurrent_layers() -> None:
    model = student("llama", linear=(0, 1, 2, 3), conv_kernel_size=4)
    model.config.recurrent_rope = False
    for layer in model.model.layers:
        layer.self_attn.recurrent_rope, layer.self_attn.rotary = False, None
    rows, packed = flattened("cu_seq_lens")
    assert "cu_seq_lens_q" in packed
    assert "position_ids" not in packed
    expected = torch.cat([model(row[None]).logits[0] for row in rows])
    torch.testing.assert_close(model(**packed).logits[0], expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("kind", ["position_ids", "both"])
def test_packed_documents_with_a_cache_are_refused(kind: str) -> None:
    model = student("qwen2")
    _, packed = flattened(kind)
    assert cache_of(model(**packed)) is None
    for arguments in ({"use_cache": True}, cache_argument(DynamicCache())):
        with pytest.raises(ValueError, match="Packed documents"):
            model(**packed, **arguments)


def test_packed_gradients_do_not_cross_documents() -> None:
    model = student("llama", linear=(0, 1, 2, 3))
    _, packed = flattened("position_ids")
    embeddings = model.get_input_embeddings()(packed["input_ids"]).detach().requires_grad_()
    model(inputs_embeds=embeddings, position_ids=packed["position_ids"]).logits[0, 6:15].square().sum().backward()
    reach = embeddings.grad[0].abs().sum(-1)
    touched = reach > 1e-6 * reach.max()  # the sums that cancel between documents do so up to rounding
    assert touched.tolist() == [6 <= i < 15 for i in range(sum(LENGTHS))]


def test_several_packed_rows() -> None:
    model = student("qwen3")
    first, second = [token_ids(n, seed=n) for n in (4, 6)], [token_ids(n, seed=n) for n in (7, 3)]
    ids = torch.stack([torch.cat(first), torch.cat(second)])
    positions = torch.stack([torch.cat([torch.arange(len(d)) for d in row]) for row in (first, second)])
    logits = model(ids, position_ids=positions).logits
    for i, documents in enumerate((first, second)):
        expected = torch.cat([model(document[None]).logits[0] for document in documents])
        torch.testing.assert_close(logits[i], expected, rtol=0, atol=ATOL)


def test_plain_batches_need_no_mask() -> None:
    positions = torch.arange(5)[None].expand(2, -1)
    for position_ids in (None, positions, positions[:1], positions + 7):
        assert packed_positions(2, 5, position_ids, None) is None
    assert padding_of(None, 5) is None
    assert padding_of(torch.ones(2, 9), 5) is None
    assert padding_of(torch.tensor([[0, 1, 1]]), 2) is None


def test_the_mask_is_cut_to_the_new_tokens() -> None:
    assert padding_of(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]), 2).tolist() == [[True, True], [True, False]]
    assert padding_of(torch.tensor([[0], [1]]), 1).tolist() == [[False], [True]]


def test_positions_inside_documents() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0]])
    by_positions = packed_positions(1, 6, positions, None)
    by_bounds = packed_positions(1, 6, None, torch.tensor([0, 3, 5, 6]))
    assert by_positions.tolist() == by_bounds.tolist() == positions.tolist()
    assert RecurrentMask(None, by_bounds).document_start.tolist() == [[True, False, False, True, False, True]]


@pytest.mark.parametrize("cached", [0, 4])
def test_a_mask_of_the_wrong_length_is_refused(cached: int) -> None:
    model, cache = student(linear=(0, 1, 2, 3)), DynamicCache()
    if cached:
        model(token_ids(2, cached), **cache_argument(cache))
    for length in (3, cached + 8):
        with pytest.raises(ValueError, match=f"covers {length} tokens; it must cover {cached + 5}"):
            model(token_ids(2, 5), attention_mask=torch.ones(2, length), **cache_argument(cache))


def test_a_mask_from_token_to_token_is_refused() -> None:
    with pytest.raises(ValueError, match="4 dimensions"):
        student()(token_ids(2, 5), attention_mask=torch.ones(2, 1, 5, 5))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(("chunk", "left"), [(1, 4), (3, 4), (3, 3)])
def test_padding_in_chunks_reaches_no_state(family: str, chunk: int, left: int) -> None:
    model, row = student(family, linear=(0, 1, 2, 3)), token_ids(6)
    ids, mask = pad_rows([row], [left], 12)
    found = logits_in_chunks(model, ids, mask, chunk)[0, left : left + 6]
    torch.testing.assert_close(found, model(row[None]).logits[0], rtol=0, atol=ATOL)
