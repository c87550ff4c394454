# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Text from files, datasets and the Hub: what is read, under which name, and what is refused."""

from __future__ import annotations

import gzip
import itertools
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_tc.data.text_files import CalibrationDataError, read_documents, source_name


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


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
    asked: list[tuple[str, str, bool]] = []

    def load_dataset(name: str, split: str, streaming: bool) -> Any:
        asked.append((name, split, streaming))
        return datasets.Dataset.from_dict({"text": ["from text"], "body": ["from body"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_documents(source) == [f"from {column}"]
    assert asked == [(source.split(":")[0], split, "[" not in split)]


def test_of_a_hub_dataset_no_more_is_read_than_the_tokens_can_need(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def rows() -> Any:
        yield from ({"text": "x" * 100} for _ in range(10))
        raise ConnectionError("the connection is lost")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.IterableDataset.from_generator(rows))
    assert read_documents("org/books", max_tokens=10) == ["x" * 100] * 7
    with pytest.raises(CalibrationDataError, match=r"org/books is no file.*the connection is lost"):
        read_documents("org/books")


def test_unreachable_dataset_is_a_clear_error() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(CalibrationDataError, match="nobody/nothing is no file, and no dataset that can be loaded"):
        read_documents("nobody/nothing")


def test_missing_datasets_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CalibrationDataError, match=r"pip install 'hf_tc\[data\]'"):
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


@pytest.mark.parametrize("text", ["The cat sat on the mat. " * 20, "The cat sat.\nThe dog ran.", "x" * 256])
def test_a_string_of_several_lines_or_more_than_a_name_can_have_is_text(text: str) -> None:
    assert read_documents(text) == read_documents([text]) == [text]
    assert source_name(text) == "a given text"


def test_a_given_text_is_split_like_a_file_of_it(tmp_path: Path) -> None:
    text = "one\n<|endoftext|>\ntwo"
    assert read_documents(text) == read_documents(write(tmp_path / "a.txt", text)) == ["one", "two"]
    assert read_documents([text]) == [text]


def test_a_list_of_texts_may_hold_short_ones() -> None:
    for texts in (["The cat sat."], ["Yes", "and/or he/she sat", "No: never"], ["notes.txt", "The cat sat.\nIt ran."]):
        assert read_documents(texts) == texts
        assert read_documents(tuple(texts)) == texts
        assert source_name(texts) == "a list of texts"


def test_a_list_of_rows() -> None:
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
    assert read_documents([{"text": "The cat sat.", "id": 1}, {"messages": messages}]) == ["The cat sat.", messages]
    assert read_documents([messages]) == [messages]
    assert source_name([{"text": "one"}]) == "a list of texts"
    with pytest.raises(CalibrationDataError, match=r"Row 0 of the given list has the columns \['body'\]"):
        read_documents([{"body": "one"}])
    with pytest.raises(CalibrationDataError, match="each must be a path, a dataset id, a text or a row"):
        read_documents([{"text": "one"}, 3])


@pytest.mark.parametrize("source", ["The cat sat.", "my books", "What?", "猫が座った。", ""])
def test_a_short_string_that_is_no_file_is_refused_with_both_readings(source: str) -> None:
    with pytest.raises(
        CalibrationDataError, match=r"no existing file.*as a path, correct it.*as text.*\[{'text': ...}\]"
    ):
        read_documents(source)


def test_a_string_that_is_a_file_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my books", "one")
    assert read_documents("my books") == ["one"]
    assert source_name(["my books", "my books"]) == "my books, my books"
    with pytest.raises(CalibrationDataError, match=r"'The cat sat\.' is no existing file"):
        read_documents(["my books", "The cat sat."])
    with pytest.raises(CalibrationDataError, match=r"There is no file missing.txt.*as text.*{'text': ...}"):
        read_documents(["my books", "missing.txt"])


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.json", "a.csv"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    content = {".jsonl": '{"text": "one"}', ".json": '[{"text": "one"}]', ".csv": "text\none\n"}
    data = ("\ufeff" + content.get(Path(name).suffix, "one")).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read_documents(tmp_path / name) == ["one"]
    assert read_documents("\ufeffone\ntwo") == read_documents(["\ufeffone\ntwo"]) == ["one\ntwo"]


def test_tables(tmp_path: Path) -> None:
    long = "x" * 200_000
    table = 'id,text\n1,"The cat, it sat.\r\n""Where?"""\n2,\n3,' + long + "\n"
    (tmp_path / "a.CSV").write_bytes(table.encode())
    assert read_documents(tmp_path / "a.CSV") == ['The cat, it sat.\r\n"Where?"', long]
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b"text\tid\nNA\t1\n12\t2\n"))
    assert read_documents(tmp_path / "b.tsv.gz") == ["NA", "12"]
    with pytest.raises(CalibrationDataError, match=r"has the columns \['body', 'id'\], not 'text'"):
        read_documents(write(tmp_path / "c.csv", "id,body\n1,one\n"))


def test_json_files_are_rows_and_not_their_own_source(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": "two"}]
    for text in (json.dumps(rows), json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows))):
        assert read_documents(write(tmp_path / "rows.json", text)) == ["one", "two"]
    with pytest.raises(CalibrationDataError, match=r"Line 1 of .*rows.json is not JSON"):
        read_documents(write(tmp_path / "rows.json", "one two"))


@pytest.mark.parametrize("source", [float("nan"), None, 3, ["a.txt", float("nan")]])
def test_sources_of_the_wrong_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", "one")
    with pytest.raises(CalibrationDataError, match=r"give a file, a text|must be a path"):
        read_documents(source)


@pytest.mark.parametrize("of_source", [lambda value: value, lambda value: [value]])
def test_a_tensor_is_told_by_its_shape_and_not_printed(of_source: Callable[[Any], Any]) -> None:
    with pytest.raises(CalibrationDataError, match=r"a Tensor of shape \(70, 3\)( is in the list)?; ") as error:
        read_documents(of_source(torch.zeros(70, 3)))
    assert "0." not in str(error.value)


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
