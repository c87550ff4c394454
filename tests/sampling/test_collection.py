# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which documents are kept, with sampled tokens that are given."""

import random
from typing import Any

import pytest
from student_folders import VOCABULARY, letter_tokenizer

from hf_tc.data.text_or_path import CHAT, FREE
from hf_tc.data.token_blocks import CalibrationDataError, count_tokens
from hf_tc.sampling.collection import Collection
from hf_tc.sampling.prompts import Prompts

BOS, EOS = VOCABULARY.index("<s>"), VOCABULARY.index("</s>")
MOST = 40
TOKENIZER = letter_tokenizer()


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def prompts_for(*kinds: str) -> Prompts:
    first = {CHAT: ids_of("user: "), FREE: [BOS]}
    return Prompts({kind: first[kind] for kind in kinds}, frozenset({EOS}), "assistant:", "user:")


def collection_of(**wanted: int) -> Collection:
    return Collection(wanted, prompts_for(*wanted), TOKENIZER, MOST)


def words(count: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(VOCABULARY[4:56], k=count))


def test_documents_are_kept_in_the_order_in_which_they_were_begun() -> None:
    """The long one takes three rounds, in which many short ones end; those after it wait for it."""
    collection, long = collection_of(free=60), words(30, seed=99)
    texts = {0: words(6, 0), 1: long}
    while begun := collection.begin(4):
        sampled = []
        for draft, ids in zip(collection.drafts, begun, strict=True):
            text = ids_of(texts.setdefault(draft.number, words(6, draft.number)))
            left = text[len(ids) - 1 :][:10]
            sampled.append(left if len(ids) - 1 + len(left) < len(text) else [*left, EOS])
        collection.take(sampled)
    kept = collection.documents()
    assert kept[:3] == [texts[0], long, texts[2]]
    assert kept == [texts[number] for number in range(len(kept))]
    tokens = [count_tokens(text, TOKENIZER) for text in kept]
    assert sum(tokens) >= 60 > sum(tokens[:-1])
    assert collection.tokens == 60


def test_a_conversation_is_sampled_turn_by_turn() -> None:
    collection = collection_of(chat=30)
    assert [TOKENIZER.decode(ids) for ids in collection.begin(2)] == ["user: ", "user: "]
    collection.take([[*ids_of(" who? "), EOS], ids_of("me\nassistant: no")])
    shown = [TOKENIZER.decode(ids) for ids in collection.begin(2)]
    assert shown == ["user: who?\nassistant: ", "user: me\nassistant: "]
    collection.take([ids_of("him")[:2], [*ids_of("good\nuser: more"), EOS]])
    assert TOKENIZER.decode(collection.drafts[0].ids) == "user: who?\nassistant: hi"
    collection.take([[*ids_of("m "), EOS], *[[*ids_of("x")] for _ in collection.drafts[1:]]])
    assert collection.documents() == [
        [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "him"}],
        [{"role": "user", "content": "me"}, {"role": "assistant", "content": "good"}],
    ]


def test_long_answers_and_texts_are_cut_and_endless_users_dropped() -> None:
    collection = collection_of(chat=20, free=20)
    long = words(MOST, seed=1)
    collection.begin(2)
    assert [draft.kind for draft in collection.drafts] == [CHAT, FREE]
    collection.take([ids_of(long)[: MOST - 6], ids_of(long)[: MOST - 1]])
    assert collection.documents() == [long[: MOST - 1]]
    assert collection.faults == {"endless": 1}


def take_bad_ones(collection: Collection, text: str) -> None:
    for _ in range(4):
        collection.begin(1)
        collection.take([[*ids_of(text), EOS]])


@pytest.mark.parametrize(
    ("fault", "text"),
    [("empty", ""), ("empty", " .\n"), ("repetitive", "ab" * 15), ("identical", "a story")],
)
def test_what_is_of_no_use_is_dropped_and_too_much_of_it_refused(fault: str, text: str) -> None:
    collection = collection_of(free=10_000)
    for number in range(16):
        collection.begin(2)
        collection.take([[*ids_of(text), EOS], [*ids_of(words(9, number)), EOS]])
    found = [text] * (fault == "identical")
    assert sorted(collection.documents()) == sorted([*(words(9, number) for number in range(16)), *found])
    with pytest.raises(CalibrationDataError, match=rf"5\d% of 3\d documents .* \(1[78] {fault}\); at most 50%"):
        take_bad_ones(collection, text)


def test_a_teacher_that_writes_nothing_of_use_is_refused_soon() -> None:
    collection = collection_of(free=10_000)
    collection.begin(8)
    with pytest.raises(CalibrationDataError, match=r"100% of 8 documents .* writes sense, or give text"):
        collection.take([[EOS]] * 8)


def test_documents_in_progress_count_for_the_teacher() -> None:
    """The empty ones end first: of 40, 17 are too few to refuse it, though none has ended well."""
    collection = collection_of(free=10_000)
    collection.begin(40)
    collection.take([[EOS]] * 17 + [ids_of(words(9, number)) for number in range(23)])
    assert len(collection.drafts) == 23
    with pytest.raises(CalibrationDataError, match=r"52% of 40 documents"):
        collection.take([[EOS]] * 19 + [[*ids_of("ab" * 15), EOS]] * 4)


def test_kinds_are_mixed_and_no_more_is_begun_than_is_expected_to_be_needed() -> None:
    collection, number = collection_of(chat=400, free=400), 0
    assert len(collection.begin(10_000)) == 2 * 400 / (MOST / 2)
    while collection.begin(8):
        sampled: list[Any] = []
        for _ in collection.drafts:
            number += 1
            sampled.append([*ids_of(words(12, number)), EOS])
        collection.take(sampled)
    kinds = [type(document) for document in collection.documents()]
    half = len(kinds) // 2
    assert abs(kinds[:half].count(str) - kinds[half:].count(str)) <= 2
