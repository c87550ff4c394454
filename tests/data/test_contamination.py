# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Shared passages are found wherever they stand, counted once, and refused with their place."""

import pytest
import torch
from conversion_inputs import QUICK, letter_teacher, text_file
from student_folders import letter_tokenizer

from hf_tc.assets import sample_text_path
from hf_tc.convert import from_teacher
from hf_tc.data.contamination import NGRAM, Overlap, check_contamination, ngrams, text_overlap
from hf_tc.data.token_blocks import CalibrationDataError, read_documents, token_blocks


def random_tokens(rows: int, length: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 50_000, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_ngrams_are_equal_where_their_tokens_are() -> None:
    found = ngrams(torch.tensor([1, 2, 1, 2, 70_000, 1]), 2)
    assert len(found) == 5
    assert [found.index(ngram) for ngram in found] == [0, 1, 0, 3, 4]
    assert ngrams(torch.tensor([70_000, 1]), 2) == found[4:]


def test_texts_without_a_common_passage_share_nothing() -> None:
    assert text_overlap(random_tokens(5, 100, seed=0), random_tokens(9, 200, seed=1)) == Overlap(0.0)


@pytest.mark.parametrize(("length", "shared"), [(NGRAM - 1, 0), (NGRAM, 1), (70, 70 - NGRAM + 1)])
@pytest.mark.parametrize("offset", [0, 13, 130])
def test_a_passage_is_found_at_any_offset(length: int, shared: int, offset: int) -> None:
    evaluation, calibration = random_tokens(4, 200, seed=0), random_tokens(6, 333, seed=1)
    calibration[5, 17 : 17 + length] = evaluation[2, offset : offset + length]
    found = text_overlap(evaluation, calibration)
    assert found.share == pytest.approx(shared / (4 * (200 - NGRAM + 1)))
    if shared:
        assert (found.block, found.start, found.stop) == (2, offset, offset + length)


def test_what_stands_above_every_document_counts_once() -> None:
    evaluation, calibration = random_tokens(50, 200, seed=0), random_tokens(50, 200, seed=1)
    evaluation[:, :60] = calibration[:, :60] = random_tokens(1, 60, seed=2)
    once = 60 - NGRAM + 1
    assert text_overlap(evaluation, calibration).share == pytest.approx(once / (once + 50 * (169 - once)))
    check_contamination(evaluation, calibration, letter_tokenizer())


def test_a_text_is_all_of_itself_even_where_it_repeats() -> None:
    tokens = random_tokens(1, 50, seed=0).repeat(1, 20).view(5, 200)
    assert text_overlap(tokens, tokens).share == 1
    assert text_overlap(tokens, tokens.roll(7).view(2, 500)).share == 1


def test_blocks_shorter_than_an_ngram_are_compared_whole() -> None:
    evaluation = random_tokens(3, 8, seed=0)
    found = text_overlap(evaluation, torch.cat([random_tokens(2, 8, seed=1), evaluation[1:2]]))
    assert (found.share, found.block, found.start, found.stop) == (pytest.approx(1 / 3), 1, 0, 8)


def test_a_small_share_is_let_through_and_a_larger_one_refused_with_its_place() -> None:
    tokenizer = letter_tokenizer()
    evaluation = torch.randint(4, 50, (10, 131), generator=torch.Generator().manual_seed(0))  # 1,000 n-grams
    calibration = torch.randint(4, 50, (10, 131), generator=torch.Generator().manual_seed(1))
    calibration[0, : NGRAM + 9] = evaluation[3, 20 : 20 + NGRAM + 9]  # ten of them
    check_contamination(evaluation, calibration, tokenizer)
    calibration[0, : NGRAM + 10] = evaluation[3, 20 : 20 + NGRAM + 10]
    passage = tokenizer.decode(evaluation[3, 20:44])
    with pytest.raises(CalibrationDataError, match="another file, another split") as error:
        check_contamination(evaluation, calibration, tokenizer)
    assert "1.1% of the evaluation text" in str(error.value)
    assert f"its tokens 413 to 455, {passage!r}" in str(error.value)


def test_conversion_refuses_evaluation_text_from_its_calibration_text(tmp_path) -> None:
    text, other = text_file(tmp_path / "text.txt"), text_file(tmp_path / "other.txt", 400, seed=1)
    mixed = tmp_path / "mixed.txt"
    mixed.write_text(other.read_text() + text.read_text()[37:137], encoding="utf-8")
    unfinished = tmp_path / "unfinished"
    options = {**QUICK, "calibration_data": text, "checkpoint_dir": unfinished}
    for data in (text, mixed):
        with pytest.raises(CalibrationDataError, match="also stands in the calibration text"):
            from_teacher(letter_teacher(), letter_tokenizer(), evaluation_data=data, **options)
    assert not unfinished.exists()
    from_teacher(letter_teacher(), letter_tokenizer(), evaluation_data=other, **options)


def test_the_packaged_samples_do_not_overlap() -> None:
    blocks = [
        token_blocks(read_documents(sample_text_path(name)), letter_tokenizer(), 512)
        for name in ("heldout", "calibration")
    ]
    assert text_overlap(*blocks).share < 1e-3
