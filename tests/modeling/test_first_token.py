# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which tokens are the first of their text, and what they add. That caches, padding and packing leave no other trace of
it is part of the tests of those."""

import pytest
import torch
from tiny_models import logits_in_chunks, pad_rows, student, token_ids
from transformers import DynamicCache

from hf_tc.modeling.first_token import add_first_values, first_tokens
from hf_tc.modeling.library_cache import cache_argument
from hf_tc.modeling.masks import RecurrentMask

T, F = True, False
PADDING = torch.tensor([[F, F, T, T], [T, T, T, F], [F, F, F, F]])
STATE = torch.stack([torch.zeros(2, 3, 3), torch.ones(2, 3, 3), torch.zeros(2, 3, 3)])


def test_rows_without_padding_begin_with_their_first_token() -> None:
    assert first_tokens(RecurrentMask(), 4, None) is True
    assert first_tokens(RecurrentMask(), 4, STATE) is False


def test_padding_documents_and_rows_that_are_new() -> None:
    first = torch.tensor([[F, F, T, F], [T, F, F, F], [F, F, F, F]])
    assert torch.equal(first_tokens(RecurrentMask(PADDING), 4, None), first)
    after_padding = torch.tensor([[F, F, T, F], [F, F, F, F], [F, F, F, F]])
    assert torch.equal(first_tokens(RecurrentMask(PADDING), 4, STATE, rows_may_be_new=True), after_padding)
    assert first_tokens(RecurrentMask(PADDING), 4, STATE) is False
    whole = torch.tensor([[T, F, F], [F, F, F], [T, F, F]])
    assert torch.equal(first_tokens(RecurrentMask(), 3, STATE, rows_may_be_new=True), whole)
    documents = torch.tensor([[0, 1, 0, 0]])
    assert torch.equal(first_tokens(RecurrentMask(None, documents), 4, None), documents == 0)


@pytest.mark.parametrize("first", [True, torch.tensor([[T, F, F], [F, F, T]])], ids=["slice", "mask"])
def test_the_value_of_a_first_token_is_added_with_its_weight(first: torch.Tensor | bool) -> None:
    output, values, weight = torch.randn(2, 3, 2, 4), torch.randn(2, 3, 2, 4), torch.randn(8)
    expected = output.clone()
    for row, token in ((0, 0), (1, 0 if first is True else 2)):
        expected[row, token] += weight.view(2, 4) * values[row, token]
    torch.testing.assert_close(add_first_values(output.clone(), values, weight, first), expected)


def test_students_without_it_are_as_they_were() -> None:
    """The rest of a text reads the same memory: in a layer alone, only its first token is another."""
    model = student(linear=(3,))
    mixer = model.model.layers[3].self_attn
    x, outputs = model.get_input_embeddings()(token_ids(2, 7)).detach(), []
    for _ in range(2):
        outputs.append(mixer(x, recurrent_mask=RecurrentMask())[0])
        mixer.first_token_weight = None
    assert torch.equal(outputs[0][:, 1:], outputs[1][:, 1:])
    assert (outputs[0][:, 0] - outputs[1][:, 0]).abs().max() > 1e-3
    assert student(first_token_value=False).model.layers[0].self_attn.first_token_weight is None


@pytest.mark.parametrize("compiled", [False, True])
@torch.no_grad()
def test_a_text_that_begins_after_chunks_of_padding(compiled: bool) -> None:
    """Its first token is found by the state; a compiler, which cannot look at the mask, leaves the question open."""
    model, rows = student(linear=(0, 1, 2, 3)), [token_ids(3), token_ids(11)]
    forward = torch.compile(model.forward, backend="eager") if compiled else model.forward
    found = logits_in_chunks(forward, *pad_rows(rows, [9, 1], 12), 4)
    for index, row in enumerate(rows):
        alone = model(row[None]).logits[0]
        torch.testing.assert_close(found[index, 12 - len(row) :], alone, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_rollback_knows_again_which_rows_are_new() -> None:
    model, cache = student(linear=(0, 1, 2, 3)), DynamicCache()
    rows = [token_ids(1), token_ids(3)]
    ids, mask = pad_rows(rows, [2, 0], 3)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    model(ids[:, :1], attention_mask=mask[:, :1], position_ids=positions[:, :1], **cache_argument(cache))
    cache.activate_past_recording()
    given = {"attention_mask": mask, "position_ids": positions[:, 1:], **cache_argument(cache)}
    model(ids[:, 1:], **given)
    cache.crop(-1)
    given["position_ids"] = positions[:, 2:]
    found = model(ids[:, 2:], **given).logits[:, 0]
    for index, row in enumerate(rows):
        torch.testing.assert_close(found[index], model(row[None]).logits[0, -1], rtol=0, atol=1e-4)
