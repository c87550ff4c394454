# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Data sets of text and conversations: what becomes of them, that documents stay apart, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distillation_runs import config, logged
from student_folders import VOCABULARY, letter_tokenizer
from tiny_causal_lms import tiny_llama, tiny_qwen3
from tiny_models import student as tiny_student
from torch import Tensor
from torch.utils.data import IterableDataset

from hf_tc.data.row_files import CalibrationDataError
from hf_tc.distillation import DistillationTrainer
from hf_tc.distillation.data_settings import DataSettings
from hf_tc.distillation.datasets import DataPreparation
from hf_tc.distillation.row_collator import RowCollator

MARKED_TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] + ':' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '\n' }}{% endgeneration %}{% else %}{{ message['content'] + '\n' }}"
    "{% endif %}{% endfor %}"
)
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hoho"}]
TEXTS = ["abcdefgh", "", "ijk", "lmnopqrstuvwxyz"]


def tokenizer() -> Any:
    found = letter_tokenizer()
    found.chat_template = MARKED_TEMPLATE
    return found


def ids_of(text: str) -> list[int]:
    return [2 if letter == "$" else VOCABULARY.index(letter) for letter in text]  # $ stands for eos


def rows_of(data: Any, **settings: Any) -> list[dict[str, Tensor]]:
    return list(DataPreparation(tokenizer(), DataSettings(**settings)).for_training(data))


def learned(row: dict[str, Tensor]) -> str:
    return "".join("-" if label == -100 else VOCABULARY[label] for label in row["labels"].tolist())


class Stream(IterableDataset[Any]):
    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


def forms_of(rows: list[Any]) -> list[Any]:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_list(rows)
    unknown = whole.to_iterable_dataset().map(lambda row: row)  # its columns are not known before it is read
    return [rows, whole, whole.to_iterable_dataset(), unknown, Stream(rows)]


def test_texts_fill_rows_and_positions_restart_in_all_forms_of_data() -> None:
    for data in forms_of([{"text": text, "id": 1} for text in TEXTS]):
        rows = rows_of(data, sequence_length=10)
        assert [row["input_ids"].tolist() for row in rows] == [
            ids_of("abcdefgh$i"),
            ids_of("jk$lmnopqr"),
            [*ids_of("stuvwxyz$"), 0],
        ]
        assert [row["position_ids"].tolist() for row in rows] == [
            [*range(9), 0],
            [*range(3), *range(7)],
            [*range(9), 0],
        ]
        assert rows[2]["labels"].tolist() == [*ids_of("stuvwxyz$"), -100]


@pytest.mark.parametrize("column", ["messages", "conversations", "conversation"])
def test_conversations_are_learned_where_the_assistant_speaks_and_never_cut_in_two(column: str) -> None:
    long = [TALK[0], {"role": "assistant", "content": "abcdefghijklmnop"}]
    for data in forms_of([{column: talk} for talk in (TALK, TALK, long, TALK[:1])]):
        rows = rows_of(data, sequence_length=16)
        # Each talk has 12 tokens. The second one finds no room beside the first; what is unlearned is left out.
        assert [learned(row) for row in rows] == ["-------abcdefghi", "-------Hoho\n----", "-------Hoho\n----"]
        assert rows[1]["position_ids"].tolist() == [*range(12), *range(4)]
        assert rows[1]["input_ids"][:12].tolist() == ids_of("u:Hi\na:Hoho\n")
    both = rows_of([{column: TALK}] * 3, sequence_length=24)
    assert [learned(row) for row in both] == ["-------Hoho\n" * 2, "-------Hoho\n" + 12 * "-"]
    whole = rows_of([{column: TALK}], sequence_length=12, assistant_only_loss=False)
    assert learned(whole[0]) == "u:Hi\na:Hoho\n"


def test_a_template_without_marks_says_the_ways_out() -> None:
    preparation = DataPreparation(letter_tokenizer(), DataSettings(sequence_length=16))
    with pytest.raises(
        CalibrationDataError, match=r"no \{% generation %\} block.*(trl|TRL).*assistant_only_loss=False"
    ):
        preparation.for_training([{"messages": TALK}])


def test_of_a_template_without_marks_that_trl_knows_its_own_is_used() -> None:
    templates = pytest.importorskip("trl.chat_template_utils")
    known = letter_tokenizer()
    known.chat_template = templates.qwen2_5_chat_template
    (row,) = DataPreparation(known, DataSettings(sequence_length=512)).for_training([{"messages": TALK}])
    assert "Hoho" in learned(row)
    assert "Hi" not in learned(row)


def test_documents_may_stay_by_themselves() -> None:
    rows = rows_of([{"text": "abcdefg"}, {"messages": [*TALK, *TALK]}], sequence_length=12, packing=False)
    assert [learned(row) for row in rows] == ["abcdefg</s>", "-------Hoho\n"]
    assert all("position_ids" not in row for row in rows)
    assert len(rows_of([{"text": "abcdefg"}], sequence_length=3, packing=False)) == 3


def test_tokens_and_stages_take_the_data_in_its_order() -> None:
    data = [{"text": "abcdefghijklmno"}, {"text": "pqrstuvwxyzABCDEFGHIJKLMNOP"}]
    assert len(rows_of(data, sequence_length=8, tokens=17)) == 2
    rows = rows_of(data, curriculum=["16:4", "16:8"])
    assert sorted(learned(row) for row in rows[:2]) == ["abcdefgh", "ijklmno</s>"]
    assert all(row["position_ids"].tolist() == [0, 1, 2, 3] * 2 for row in rows[:2])
    assert sorted(row["input_ids"].tolist() for row in rows[2:]) == sorted([ids_of("pqrstuvw"), ids_of("xyzABCDE")])
    assert rows_of(data, tokens=32, curriculum=["0.5:4", "0.5:8"])[0].keys() == rows[0].keys()
    with pytest.raises(CalibrationDataError, match="has 48 tokens in sequences of 8, 96 were asked for"):
        rows_of(data, sequence_length=8, tokens=96)


def test_rows_of_a_shorter_stage_become_more_rows_and_flash_attention_gets_one() -> None:
    rows = rows_of([{"text": "abcdefghijklmnopqrstuvwxyz" * 3}], curriculum=["16:4", "16:16"])
    short, long = rows[0], rows[1]
    collate = RowCollator(lambda features: {"others": features}, [4, 16])
    assert collate([short, short])["input_ids"].shape == (8, 4)
    assert collate([short, long])["input_ids"].shape == (2, 16)
    assert collate([long])["position_ids"].tolist() == [[*range(16)]]
    flat = RowCollator(lambda features: {}, [4, 16], flatten=True)([short, long])
    assert flat["position_ids"].tolist() == [[0, 1, 2, 3] * 4 + [*range(16)]]
    assert collate([{"input_ids": [1]}]) == {"others": [{"input_ids": [1]}]}
    padded = collate([{"input_ids": [7] * 4, "position_ids": [0, 1, 0, 1]}, {"input_ids": [8], "position_ids": [0]}])
    assert padded["labels"].tolist() == [[7] * 4, [8, -100, -100, -100]]
    assert padded["position_ids"].tolist() == [[0, 1, 0, 1], [0, 0, 1, 2]]


def trainer_of(tmp_path: Path, data: Any, **changes: Any) -> DistillationTrainer:
    teacher = tiny_qwen3(vocab_size=len(VOCABULARY))
    arguments = config(tmp_path, **{"max_steps": 1, "sequence_length": 16, **changes})
    student = tiny_student(vocab_size=len(VOCABULARY))
    return DistillationTrainer(
        student, teacher, arguments, train_dataset=data, eval_dataset=data, processing_class=tokenizer()
    )


def test_the_loss_of_packed_documents_is_that_of_each_by_itself(tmp_path: Path) -> None:
    data = [{"text": "abcdefg"}, {"messages": TALK}, {"text": "hijk"}, {"messages": TALK}, {"text": "lm"}]
    expected = trainer_of(tmp_path, data, packing=False, per_device_eval_batch_size=1).evaluate()
    for batch in (1, 3):
        packed = trainer_of(tmp_path, data, per_device_eval_batch_size=batch)
        found = packed.evaluate()
        for name in ("eval_kl", "eval_student_perplexity", "eval_teacher_perplexity"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5)
        assert packed.evaluate(data[:1])["eval_kl"] != pytest.approx(found["eval_kl"], rel=1e-3)
    both = packed.evaluate({"whole": data, "first": data[:1]})
    assert both["eval_whole_kl"] == pytest.approx(expected["eval_kl"], rel=1e-5)


def test_a_stage_of_shorter_rows_has_the_loss_of_these_rows(tmp_path: Path) -> None:
    data = [{"text": "abcdefghijklmnopqrstuvwxyz" * 2}]
    staged = {"curriculum": ["32:8", "16:16"], "per_device_train_batch_size": 2, "max_steps": 2}
    found, expected = trainer_of(tmp_path, data, **staged), trainer_of(tmp_path, data, sequence_length=8, tokens=32)
    shapes = []
    collate = found.data_collator
    found.data_collator = lambda features: shapes.append((batch := collate(features))["input_ids"].shape) or batch
    found.train()
    expected.train()
    assert shapes == [(4, 8), (1, 16)]
    assert logged(found, "loss")[0] == pytest.approx(logged(expected, "loss")[0], rel=1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_passages_come_twice_in_a_share_of_the_rows(packing: bool) -> None:
    data = [
        {"text": "".join(VOCABULARY[3 + (place * place // 3 + row) % 20] for place in range(48))} for row in range(20)
    ]
    plain, repeated = (
        rows_of(data, sequence_length=48, packing=packing, repeated_passages=share) for share in (0.0, 0.5)
    )
    changed = [learned(row) != learned(other) for row, other in zip(plain, repeated, strict=True)]
    assert any(changed)
    assert not all(changed)
    assert [row["input_ids"].shape for row in plain] == [row["input_ids"].shape for row in repeated]
    streamed = DataPreparation(tokenizer(), DataSettings(sequence_length=48, packing=packing, repeated_passages=0.5))
    assert [*map(learned, streamed.for_training(Stream(data)))] == [*map(learned, repeated)]
    assert [*map(learned, streamed.for_evaluation(data))] == [*map(learned, plain)]
    with pytest.raises(ValueError, match=r"repeated_passages is 0\.5, and train_dataset holds tokens"):
        streamed.for_training(list(streamed.for_training(data)))


@pytest.mark.parametrize("settings", [{"packing": True}, {"packing": False}, {"curriculum": ["128:32", "128:64"]}])
def test_conversations_are_not_repeated(settings: dict[str, Any]) -> None:
    talk = [{"role": "user", "content": "Hi" * 9}, {"role": "assistant", "content": "Hoho" * 2}]
    data = [{"messages": talk}] * 12
    length = {} if "curriculum" in settings else {"sequence_length": 64}
    plain, repeated = (rows_of(data, repeated_passages=share, **length, **settings) for share in (0.0, 1.0))
    assert [*map(learned, repeated)] == [*map(learned, plain)]
    texts = [{"text": "abcdefghijklmnopqrstuvwxyz" * 3 + letter} for letter in "abcdefgh"]
    plain, repeated = (rows_of(texts, repeated_passages=share, **length, **settings) for share in (0.0, 1.0))
    assert [*map(learned, repeated)] != [*map(learned, plain)]


@pytest.mark.parametrize("packing", [True, False])
def test_streams_train_as_they_are_read(tmp_path: Path, packing: bool) -> None:
    datasets = pytest.importorskip("datasets")
    read = []

    def rows() -> Iterator[dict[str, str]]:
        for _ in range(10_000):
            read.append(1)
            yield {"text": "abcdefghijkl"}

    stream = datasets.IterableDataset.from_generator(rows)
    trainer = trainer_of(tmp_path, stream, max_steps=3, packing=packing)
    trainer.train()
    assert trainer.state.global_step == 3
    assert len(read) < 1_000


def test_a_stream_without_steps_is_refused_with_the_steps_of_its_tokens(tmp_path: Path) -> None:
    rows = Stream([{"text": "abcdefghijkl"}] * 100)
    options = {
        "max_steps": -1,
        "sequence_length": 8,
        "gradient_accumulation_steps": 3,
        "per_device_train_batch_size": 2,
    }
    told = r"train_dataset is a stream.*max_steps is -1\. Set max_steps \(--max-steps\)"
    with pytest.raises(ValueError, match=rf"{told}: 3 for the 13 rows of tokens=104, 6 a step; or give"):
        trainer_of(tmp_path, rows, tokens=104, **options)
    for more in ({}, {"tokens": 104, "packing": False}):
        with pytest.raises(ValueError, match=rf"{told}; or give"):
            trainer_of(tmp_path, rows, **options, **more)
    trainer = trainer_of(tmp_path, rows, tokens=104, **{**options, "max_steps": 3})
    trainer.train()
    assert trainer.state.global_step == 3


def test_columns_that_are_not_known_are_refused_with_their_names(tmp_path: Path) -> None:
    for data in forms_of([{"prompt": "a", "answer": "b"}]):
        with pytest.raises(ValueError, match=r"has the columns \['answer', 'prompt'\], none of them known\. Rename"):
            trainer_of(tmp_path, data)


def test_data_without_anything_to_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match="train_dataset holds nothing to learn from"):
        trainer_of(tmp_path, [{"messages": TALK[:1]}])
    arguments = config(tmp_path, sequence_length=8)
    with pytest.raises(ValueError, match="train_dataset holds text, and there is no tokenizer"):
        DistillationTrainer(tiny_llama(), tiny_qwen3(), arguments, train_dataset=[{"text": "a"}])


def test_a_model_in_which_packed_documents_see_each_other_is_refused(tmp_path: Path) -> None:
    class OneDocument(type(tiny_qwen3())):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            forward = self.model.forward
            self.model.forward = lambda *args, position_ids=None, **kwargs: forward(*args, **kwargs)

    teacher = OneDocument(tiny_qwen3(vocab_size=len(VOCABULARY)).config)
    student = tiny_student(vocab_size=len(VOCABULARY))
    given = {"train_dataset": [{"text": "abcdef"}], "processing_class": tokenizer()}
    with pytest.raises(ValueError, match="In the teacher, a OneDocument, packed documents see each other"):
        DistillationTrainer(student, teacher, config(tmp_path, sequence_length=8), **given)
    DistillationTrainer(student, teacher, config(tmp_path, sequence_length=8, packing=False), **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 1}, "sequence_length is 1"),
        ({"tokens": 10, "sequence_length": 16}, "tokens is 10, below one sequence of 16"),
        ({"curriculum": ["64"]}, "stage '64'; it must be TOKENS:LENGTH"),
        ({"curriculum": [{"tokens": 1}]}, "'TOKENS:LENGTH', a pair, or a mapping"),
        ({"curriculum": ["64:6", "64:16"]}, "sequences of 6 and 16 tokens"),
        ({"curriculum": ["0.5:8", "0.5:16"]}, "tokens is not set"),
        ({"curriculum": ["0.5:8", "0.4:16"], "tokens": 640}, "add up to 0.9"),
        ({"curriculum": ["64:8", "64:16"], "tokens": 640}, "128 tokens together, and tokens is 640"),
        ({"curriculum": ["8:8", "64:16"]}, "has 8 tokens, below one row of 16"),
        ({"curriculum": ["64:16"], "packing": False}, "packing=False"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_stages_may_be_given_as_pairs_or_mappings(tmp_path: Path) -> None:
    stages = config(tmp_path, curriculum=[(64, 8), {"tokens": 32, "sequence_length": 16}])
    assert stages.curriculum == ["64:8", "32:16"]
    assert stages.row_length == 16


def test_rows_that_a_training_would_cut_are_all_evaluated(tmp_path: Path) -> None:
    """Five rows in batches of four: of the last batch, cut in two, a half would count as a sample too many."""
    rows = [
        {"input_ids": [3 + (5 * i + j) % 11 for j in range(16)], "position_ids": [*range(8), *range(8)]}
        for i in range(5)
    ]
    found = []
    for size in (1, 4):
        arguments = config(tmp_path, curriculum=["32:8", "16:16"], per_device_eval_batch_size=size)
        trainer = DistillationTrainer(tiny_qwen3(), tiny_llama(), arguments, train_dataset=rows, eval_dataset=rows)
        metrics = trainer.evaluate()
        found.append([metrics[f"eval_{name}"] for name in ("kl", "student_perplexity", "teacher_perplexity")])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
