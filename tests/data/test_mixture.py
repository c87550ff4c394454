# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Sources of calibration text and their shares."""

from pathlib import Path
from typing import Any

import pytest

from hf_tc.assets import sample_text_path
from hf_tc.data.mixture import (
    PACKAGED_TOKENS,
    SHIPPED_SAMPLE,
    Source,
    blocks_of_sources,
    data_of_words,
    default_data,
    mixture_name,
    shown_data,
    sources_of,
)
from hf_tc.data.text_files import CalibrationDataError, read_documents


def test_a_mapping_is_sources_with_shares_and_all_else_one_source() -> None:
    mixture = {"/books/wiki.txt": 0.25, "org/books:train": 0.25, "sampled:chat": 0.5}
    sources = sources_of(mixture)
    assert [(source.data, source.share) for source in sources] == list(mixture.items())
    assert [source.sampled_kind for source in sources] == [None, None, "chat"]
    for data in ("books.txt", ["a.txt", "b.txt"], Path("c.txt"), [{"text": "one"}], {"train": [{"text": "two"}]}):
        assert sources_of(data) == [Source(data, 1.0)]
    assert [source.sampled_kind for word in ("sampled", "sampled:free") for source in sources_of(word)] == [
        "both",
        "free",
    ]


def test_a_report_names_all_sources() -> None:
    mixture = {sample_text_path("heldout"): 0.25, "org/books": 0.25, "sampled": 0.5}
    name = mixture_name(sources_of(mixture))
    assert name == "sample_heldout.txt (0.25), org/books (0.25), text sampled from the teacher (0.5)"
    assert shown_data(mixture) == {"sample_heldout.txt": 0.25, "org/books": 0.25, "sampled": 0.5}
    assert shown_data("sampled") == "sampled"


def test_without_data_a_teacher_on_a_gpu_writes_half_of_the_text_or_more() -> None:
    packaged = sample_text_path("calibration")
    assert default_data(64, 1024, teacher_on_gpu=False) == packaged
    for blocks, length, share in (
        (2, 512, 0.5),
        (128, 1024, 0.5),
        (256, 1024, 0.25),
        (1024, 1024, 1 / 16),
        (25, 40_960, 0.04),
    ):
        sources = sources_of(default_data(blocks, length, teacher_on_gpu=True))
        assert [(source.data, source.share) for source in sources] == [(packaged, share), ("sampled", 1 - share)]
        assert blocks_of_sources(sources, blocks)[0] * length <= PACKAGED_TOKENS
    name = mixture_name(sources)
    assert name == f"{SHIPPED_SAMPLE} (0.04), text sampled from the teacher (0.96)"
    assert default_data(1, 512, teacher_on_gpu=True) == default_data(9, 131_072, teacher_on_gpu=True) == packaged


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a.txt": 0.5, "sampled": 0.4}, r"add up to 0\.9 \(a\.txt 0\.5, text sampled from the teacher 0\.4\)"),
        ({"a.txt": 0.5, "b.txt": 0.502}, r"add up to 1\.002 .* Change one by -0\.002"),
        ({"a.txt": 0.5, "b.txt": -0.5}, r"share of b\.txt is -0\.5; each must be above 0 and at most 1"),
        ({"a.txt": 1.5}, r"share of a\.txt is 1\.5"),
        ({"a.txt": 1, "b.txt": 0}, r"share of b\.txt is 0"),
        ({"a.txt": float("nan")}, r"share of a\.txt is nan"),
        ({"a.txt": float("inf")}, r"share of a\.txt is inf"),
        (["a.txt", "sampled"], "Give each source a share"),
    ],
)
def test_shares_that_make_no_text_are_refused(data: Any, message: str) -> None:
    with pytest.raises(CalibrationDataError, match=message):
        sources_of(data)


def test_shares_may_be_rounded() -> None:
    assert [source.share for source in sources_of({"a": 0.333, "b": 0.333, "c": 0.333})] == [0.333] * 3


@pytest.mark.parametrize(
    ("words", "data"),
    [
        (["a.txt"], "a.txt"),
        (["a.txt", "b.txt"], ["a.txt", "b.txt"]),
        (["a=b.txt"], "a=b.txt"),
        (["a=b.txt=0.25", "sampled=0.75"], {"a=b.txt": 0.25, "sampled": 0.75}),
        (["sampled:chat=1"], {"sampled:chat": 1.0}),
        (["=0.5"], "=0.5"),
    ],
)
def test_words_of_the_command_line_are_sources_with_or_without_shares(words: list[str], data: Any) -> None:
    assert data_of_words(words) == data


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.txt=0.5", "b.txt"], r"b\.txt has no share, and a\.txt has\. Give all sources a share or none"),
        (["a.txt=0.5", "b.txt=0.3", "a.txt=0.2"], r"a\.txt is given twice"),
    ],
)
def test_words_with_half_of_the_shares_or_a_source_twice_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(CalibrationDataError, match=message):
        data_of_words(words)


@pytest.mark.parametrize(
    ("shares", "blocks", "counts"),
    [
        ([1.0], 7, [7]),
        ([0.25, 0.25, 0.5], 64, [16, 16, 32]),
        ([0.3, 0.7], 10, [3, 7]),
        ([0.333, 0.333, 0.333], 10, [4, 3, 3]),
        ([0.26, 0.74], 10, [3, 7]),
    ],
)
def test_blocks_are_next_to_the_shares(shares: list[float], blocks: int, counts: list[int]) -> None:
    assert blocks_of_sources([Source(str(share), share) for share in shares], blocks) == counts


def test_a_share_of_less_than_a_block_is_refused() -> None:
    with pytest.raises(CalibrationDataError, match=r"share 0\.01 of b\.txt is less than one of 8 blocks"):
        blocks_of_sources([Source("a.txt", 0.99), Source("b.txt", 0.01)], 8)


@pytest.mark.parametrize("word", ["sampled", "sampled:chat", "sampled:free"])
def test_only_calibration_text_is_sampled(word: str) -> None:
    with pytest.raises(CalibrationDataError, match=rf"'{word}' is text that a teacher writes.*hf-tc sample"):
        read_documents(word)


def test_another_kind_of_sampled_text_is_refused() -> None:
    with pytest.raises(
        CalibrationDataError, match=r"'sampled:foo' is no kind .* sampled, sampled:chat, sampled:free; "
    ):
        read_documents("sampled:foo")


def test_a_share_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("CAL").write_text("text")
    Path("CAL=x").write_text("text")
    for words in (["CAL=abc"], ["CAL=abc", "sampled=0.5"], ["CAL="]):
        with pytest.raises(CalibrationDataError, match=r"The share of CAL is '(abc)?', which is no number"):
            data_of_words(words)
    with pytest.raises(CalibrationDataError, match=r"The share of sampled is 'half', which is no number"):
        data_of_words(["CAL=0.5", "sampled=half"])
    assert data_of_words(["CAL=x"]) == "CAL=x"  # a file of that name
