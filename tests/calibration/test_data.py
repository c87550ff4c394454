# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Text to blocks of token ids: sources, joining, cutting, shuffling, and refusals."""

from __future__ import annotations

import gzip
import itertools
import json
import lzma
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_causal_lms import VOCABULARY, tiny_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hf_tc.calibration.data import (
    CalibrationDataError,
    calibration_batches,
    check_vocabulary,
    read_documents,
    token_blocks,
)
from hf_tc.calibration.text_files import source_name

EOS, BOS = 0, 1
WORDS = ["one", "two", "three", "four", "five", "six", "seven"]
SENTENCE = "It was a bright cold day in April, and the clocks were striking thirteen; nobody minded.\n\n"


def word_tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """A word is a token: "one" is 2, "two" is 3, ..."""
    vocabulary = {"<eos>": EOS, "<bos>": BOS, **{word: 2 + index for index, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"eos_token": "<eos>", **special})


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([SENTENCE * 50], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# Sources


@pytest.mark.parametrize("name", ["books.txt", "books.txt.xz", "books.txt.gz", "books"])
def test_text_files_are_split_at_the_separator_line(tmp_path: Path, name: str) -> None:
    text = "First é.\nSecond line.\n<|endoftext|>\n\n<|endoftext|>\nAnother <|endoftext|> inside a line.\n"
    opener = {".xz": lzma.open, ".gz": gzip.open}.get(Path(name).suffix, open)
    with opener(tmp_path / name, "wt", encoding="utf-8") as file:
        file.write(text)
    expected = ["First é.\nSecond line.", "Another <|endoftext|> inside a line."]
    assert read_documents(tmp_path / name) == expected
    assert read_documents(str(tmp_path / name)) == expected


def test_json_lines_and_several_files(tmp_path: Path) -> None:
    rows = [{"text": "one two", "id": 1}, {"text": "three\n<|endoftext|>\nfour"}]
    write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    with lzma.open(tmp_path / "b.jsonl.xz", "wt") as file:
        file.write(json.dumps("five"))
    write(tmp_path / "c.txt", "six")
    documents = read_documents([tmp_path / "a.jsonl", str(tmp_path / "b.jsonl.xz"), tmp_path / "c.txt"])
    assert documents == ["one two", "three\n<|endoftext|>\nfour", "five", "six"]


def test_parquet_and_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"text": ["one", " ", "two"], "id": [1, 2, 3]})
    dataset.to_parquet(tmp_path / "rows.parquet")
    assert read_documents(tmp_path / "rows.parquet") == ["one", "two"]
    assert read_documents(dataset) == ["one", "two"]
    assert read_documents(dataset.to_iterable_dataset()) == ["one", "two"]


@pytest.mark.parametrize(
    ("source", "split", "column"),
    [
        ("org/books", "train", "text"),
        ("org/books:test", "test", "text"),
        ("books:train[:10]:body", "train[:10]", "body"),
    ],
)
def test_hub_datasets(monkeypatch: pytest.MonkeyPatch, source: str, split: str, column: str) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> Any:
        asked.append((name, split))
        return datasets.Dataset.from_dict({"text": ["from text"], "body": ["from body"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_documents(source) == [f"from {column}"]
    assert asked == [(source.split(":")[0], split)]


def test_unreachable_dataset_is_a_clear_error() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(CalibrationDataError, match="nobody/nothing is no file, and no dataset that can be loaded"):
        read_documents("nobody/nothing")


def test_missing_datasets_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CalibrationDataError, match=r"pip install hf_tc\[data\]"):
        read_documents("org/books")


@pytest.mark.parametrize("source", ["no/such/file", "missing.txt", "./missing", Path("missing"), "/missing.parquet"])
def test_missing_file(source: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # the Hub is not asked
    with pytest.raises(CalibrationDataError, match="There is no file"):
        read_documents(source)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("number.jsonl", b'{"messages": 3}', "has 3 in column 'messages', not text and no list of messages"),
        ("roles.jsonl", b'{"messages": [{"text": "one"}]}', "no list of messages with role and content"),
        ("empty.txt", b"", "holds no text"),
        ("blank.txt", b"\n \n<|endoftext|>\n\n", "holds no text"),
        ("latin1.txt", "caf\u00e9".encode("latin-1"), "is not UTF-8 text"),
        ("broken.txt.xz", b"not xz at all", "cannot be read"),
        ("broken.txt.gz", b"not gzip at all", "cannot be read"),
        ("broken.parquet", b"PAR1 not really", "is not a readable parquet file"),
        ("broken.jsonl", b'{"text": "one"}\n{"text": ', "Line 2 of .* is not JSON"),
        ("other.jsonl", b'{"body": "one", "id": 3}', r"has the columns \['body', 'id'\], not 'text' or 'messages'"),
        ("nan.jsonl", b'{"text": "one"}\n{"text": NaN}', "Row 1 of .* has nan in column 'text', not text"),
        ("null.jsonl", b'{"text": null}', "has None in column 'text'"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CalibrationDataError, match=message):
        read_documents(tmp_path / name)


@pytest.mark.parametrize("source", [float("nan"), None, 3, ["a.txt", float("nan")]])
def test_sources_of_the_wrong_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", "one")
    with pytest.raises(CalibrationDataError, match=r"give a file|must be a path"):
        read_documents(source)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match="is a folder"):
        read_documents(tmp_path)


def test_a_dictionary_of_splits_is_read_as_its_train_split() -> None:
    datasets = pytest.importorskip("datasets")
    train, test = (datasets.Dataset.from_dict({"text": [text]}) for text in ("to learn from", "to judge by"))
    assert read_documents(datasets.DatasetDict({"test": test, "train": train})) == ["to learn from"]
    with pytest.raises(CalibrationDataError, match=r"has the splits \['test', 'validation'\], none of them 'train'"):
        read_documents(datasets.DatasetDict({"test": test, "validation": train}))


def test_no_more_is_read_than_the_tokens_can_need(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    read: list[int] = []

    def rows() -> Any:
        for number in itertools.count():  # without an end
            read.append(number)
            yield {"text": "" if number % 2 else "x" * 100}

    endless = datasets.IterableDataset.from_generator(rows)
    assert read_documents(endless, max_tokens=10) == ["x" * 100] * 7  # 640 characters, and no blank document
    assert max(read) < 20
    file = write(tmp_path / "books.txt", "one\n<|endoftext|>\ntwo")
    assert read_documents(file, max_tokens=1) == ["one", "two"]


def test_sources_have_a_name_for_the_report(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    file = write(tmp_path / "books.txt", "one")
    assert source_name(file) == source_name(str(file)) == "books.txt"
    assert source_name("org/books:train") == "org/books:train"
    assert source_name([file, "org/books"]) == "books.txt, org/books"
    assert source_name(datasets.Dataset.from_dict({"text": ["one"]})) == "a datasets.Dataset"
    named = datasets.Dataset.from_dict(
        {"text": ["one"]}, info=datasets.DatasetInfo(dataset_name="books"), split=datasets.NamedSplit("validation")
    )
    assert source_name(named) == "books:validation"


# Blocks


def test_documents_are_joined_with_eos_and_the_rest_is_dropped() -> None:
    blocks = token_blocks(["one two three", "four five", "six seven"], word_tokenizer(), 4)
    assert blocks.dtype == torch.int64
    assert blocks.tolist() == [[2, 3, 4, EOS], [5, 6, EOS, 7]]


def test_bos_is_kept_where_the_tokenizer_adds_one() -> None:
    tokenizer = word_tokenizer(bos_token="<bos>")
    tokenizer.backend_tokenizer.post_processor = _bos_processor()
    assert token_blocks(["one two", "three"], tokenizer, 3).tolist() == [[BOS, 2, 3], [EOS, BOS, 4]]


def _bos_processor() -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])


def test_max_tokens_gives_the_first_tokens_of_the_whole_text() -> None:
    tokenizer = bpe_tokenizer()
    documents = [SENTENCE * 3, SENTENCE[5:] * 400, SENTENCE]
    everything = token_blocks(documents, tokenizer, 32)
    for max_tokens in (32, 33, 63, 64, 100, 1000, 5000):
        blocks = token_blocks(documents, tokenizer, 32, max_tokens)
        assert len(blocks) == max_tokens // 32
        assert torch.equal(blocks, everything[: len(blocks)])
    assert torch.equal(token_blocks(documents, tokenizer, 32, 10**9), everything)


def test_max_tokens_with_words_much_longer_than_usual() -> None:
    long_words = [f"incomprehensi{index:02d}" for index in range(50)]  # with its space a token is 16 characters
    backend = Tokenizer(models.WordLevel({"<eos>": EOS, **{word: 2 + i for i, word in enumerate(long_words)}}, "<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    documents = [" ".join(long_words * 20), " ".join(reversed(long_words))]
    everything = token_blocks(documents, tokenizer, 10)
    for max_tokens in (100, 500, 990, 1000, 1040):
        assert torch.equal(token_blocks(documents, tokenizer, 10, max_tokens), everything[: max_tokens // 10])


def test_max_tokens_does_not_tokenize_everything() -> None:
    real, lengths = bpe_tokenizer(), []

    def counting(text: str, **kwargs: Any) -> Any:
        lengths.append(len(text))
        return real(text, **kwargs)

    tokenizer = _Counting(real, counting)
    token_blocks([SENTENCE * 10_000, SENTENCE], tokenizer, 16, 64)
    assert max(lengths) < 5_000


class _Counting:
    def __init__(self, tokenizer: Any, call: Any) -> None:
        self.eos_token_id, self.bos_token_id, self.call = tokenizer.eos_token_id, tokenizer.bos_token_id, call

    def __call__(self, text: str, **kwargs: Any) -> Any:
        return self.call(text, **kwargs)


def test_too_little_text_says_how_much_there_is() -> None:
    with pytest.raises(CalibrationDataError, match="has 7 tokens; one block of seq_len needs 16"):
        token_blocks(["one two three", "four five six"], word_tokenizer(), 16)


def test_impossible_requests() -> None:
    with pytest.raises(CalibrationDataError, match="max_tokens is 8, below one block of seq_len 16"):
        token_blocks(["one"], word_tokenizer(), 16, 8)
    with pytest.raises(CalibrationDataError, match="seq_len is 1"):
        token_blocks(["one"], word_tokenizer(), 1)
    without_eos = word_tokenizer(eos_token=None)
    with pytest.raises(CalibrationDataError, match=r"2 documents .* Set tokenizer.eos_token"):
        token_blocks(["one two", "three"], without_eos, 2)
    assert token_blocks(["one two"], without_eos, 2).tolist() == [[2, 3]]


# Batches and vocabulary


def test_batches_hold_every_block_once_in_an_order_set_by_the_seed_alone() -> None:
    blocks = torch.arange(22).view(11, 2)
    orders = [torch.cat(list(calibration_batches(blocks, size, seed=5))) for size in (1, 4, 11, 100)]
    assert all(torch.equal(order, orders[0]) for order in orders)
    assert torch.equal(orders[0].sort(dim=0).values, blocks)
    assert not torch.equal(orders[0], blocks)
    assert not torch.equal(torch.cat(list(calibration_batches(blocks, 4, seed=6))), orders[0])
    assert [len(batch) for batch in calibration_batches(blocks, 4, seed=5)] == [4, 4, 3]
    state = torch.random.get_rng_state()
    list(calibration_batches(blocks, 4, seed=5))
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(CalibrationDataError, match="batch_size is 0"):
        calibration_batches(blocks, 0, seed=5)


def test_vocabulary_must_fit_the_model() -> None:
    model = tiny_llama()
    check_vocabulary(SimpleNamespace(get_vocab=lambda: {"a": 0, "b": VOCABULARY - 1}), model)
    with pytest.raises(
        CalibrationDataError, match=f"{VOCABULARY + 1} tokens, LlamaForCausalLM has embeddings for {VOCABULARY}"
    ):
        check_vocabulary(SimpleNamespace(get_vocab=lambda: {"a": 0, "b": VOCABULARY}), model)
