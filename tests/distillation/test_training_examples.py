# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Examples in every form: further columns, packed documents, none of the tokens labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from distillation_runs import config, logged
from tiny_causal_lms import labelled_examples, tiny_llama, tiny_qwen3
from tiny_sizes import VOCABULARY
from transformers import DataCollatorWithFlattening, LlamaForCausalLM

from hf_tc.distillation import DistillationTrainer


class _KeywordsOnly(LlamaForCausalLM):
    """A student whose forward does not name its inputs, as wrappers of another family's forward do."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def test_columns_are_kept_whatever_the_signature_of_the_student(tmp_path: Path) -> None:
    examples = [{**example, "text": "not a tensor"} for example in labelled_examples(4)]
    student = _KeywordsOnly(tiny_llama().config)
    student.load_state_dict(tiny_llama().state_dict())
    trainer = DistillationTrainer(
        model=student,
        teacher=tiny_qwen3(),
        args=config(tmp_path, max_steps=1),
        train_dataset=examples,
        eval_dataset=examples,
    )
    expected = DistillationTrainer(
        model=tiny_llama(), teacher=tiny_qwen3(), args=config(tmp_path), eval_dataset=labelled_examples(4)
    ).evaluate()
    assert trainer.evaluate()["eval_kl"] == pytest.approx(expected["eval_kl"], rel=1e-6)
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(expected["eval_kl"], rel=1e-4)


def test_packed_documents_equal_separate_ones(tmp_path: Path) -> None:
    examples = [{"input_ids": example["input_ids"][: 5 + index]} for index, example in enumerate(labelled_examples(4))]
    padded_with_labels = [
        {
            "input_ids": F.pad(example["input_ids"], (0, 12 - len(example["input_ids"])), value=0),
            "attention_mask": F.pad(torch.ones_like(example["input_ids"]), (0, 12 - len(example["input_ids"]))),
        }
        for example in examples
    ]
    arguments = config(tmp_path, per_device_eval_batch_size=4)

    def evaluated(dataset: Any, collator: Any = None) -> dict[str, float]:
        trainer = DistillationTrainer(
            model=tiny_llama(), teacher=tiny_qwen3(), args=arguments, data_collator=collator, eval_dataset=dataset
        )
        return trainer.evaluate()

    padded = evaluated(padded_with_labels)
    lists = [{"input_ids": example["input_ids"].tolist()} for example in examples]
    packed = evaluated(lists, DataCollatorWithFlattening())
    for name in ("eval_kl", "eval_student_perplexity", "eval_teacher_perplexity"):
        assert packed[name] == pytest.approx(padded[name], rel=1e-5)


def unlabelled_examples(count: int) -> list[dict[str, Any]]:
    return [{**example, "labels": torch.full_like(example["labels"], -100)} for example in labelled_examples(count)]


def trainer_of(tmp_path: Path, dataset: Any, **changes: Any) -> DistillationTrainer:
    arguments = config(tmp_path, **{"max_steps": 1, **changes})
    return DistillationTrainer(
        model=tiny_llama(), teacher=tiny_qwen3(), args=arguments, train_dataset=dataset, eval_dataset=dataset
    )


def test_a_batch_without_labelled_tokens_does_no_harm(tmp_path: Path) -> None:
    in_order = {"train_sampling_strategy": "sequential", "max_steps": 2}
    trainer = trainer_of(tmp_path, [*unlabelled_examples(4), *labelled_examples(4)], **in_order)
    trainer.train()
    first, second = logged(trainer, "loss")
    assert first == 0.0
    assert second > 0.0
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_data_without_any_label_is_refused_before_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, unlabelled_examples(8))
    with pytest.raises(ValueError, match="No token of the training data is labelled"):
        trainer.train()
    assert trainer.state.global_step == 0
    with pytest.raises(ValueError, match="No token of the evaluation dataset is labelled"):
        trainer.evaluate()


def test_an_epoch_without_any_label_is_refused(tmp_path: Path) -> None:
    class LabelsOnceOnly(list[Any]):
        reads = 0

        def __getitem__(self, index: Any) -> Any:
            self.reads += 1
            examples = labelled_examples(8) if self.reads <= 8 else unlabelled_examples(8)
            return examples[index]

    trainer = trainer_of(tmp_path, LabelsOnceOnly(labelled_examples(8)), max_steps=-1, num_train_epochs=3)
    with pytest.raises(ValueError, match="No token of the epoch that ends at step 4 is labelled"):
        trainer.train()


def test_the_rest_of_an_epoch_may_be_without_labels(tmp_path: Path) -> None:
    data = [*labelled_examples(4), *unlabelled_examples(4)]
    in_order = {"train_sampling_strategy": "sequential", "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    trainer_of(tmp_path, data, **in_order).train()
    resumed = trainer_of(tmp_path, data, **in_order)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert resumed.state.global_step == 2


@pytest.mark.parametrize("name", ["assistant_masks", "completion_mask"])
@pytest.mark.parametrize("as_dataset", [False, True])
def test_masks_reach_the_loss(tmp_path: Path, name: str, as_dataset: bool) -> None:
    labelled = labelled_examples(4)
    masked: Any = [
        {"input_ids": example["input_ids"].tolist(), name: example["labels"].ne(-100).long().tolist()}
        for example in labelled
    ]
    if as_dataset:
        masked = pytest.importorskip("datasets").Dataset.from_list(masked)
    expected, found = trainer_of(tmp_path, labelled), trainer_of(tmp_path, masked)
    assert found.evaluate()["eval_kl"] == pytest.approx(expected.evaluate()["eval_kl"], rel=1e-6)
    expected.train()
    found.train()
    assert logged(found, "loss")[0] == pytest.approx(logged(expected, "loss")[0], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loss_mask", [0, 1] * 6, "column loss_mask has a number for each token"),
        ("weights", [0.5] * 12, "column weights has a number for each token"),
        ("seq_lengths", [5, 7], "column seq_lengths"),
    ],
)
@pytest.mark.parametrize("as_dataset", [False, True])
def test_a_column_that_would_be_lost_is_refused(
    tmp_path: Path, name: str, value: list[float], message: str, as_dataset: bool
) -> None:
    further = {name: value, "token_type_ids": [0] * 12, "source": "a book", "scores": [1.0, 2.0]}
    examples: Any = [{"input_ids": example["input_ids"].tolist(), **further} for example in labelled_examples(4)]
    if as_dataset:
        examples = pytest.importorskip("datasets").Dataset.from_list(examples)
    for use in (DistillationTrainer.train, DistillationTrainer.evaluate):
        with pytest.raises(ValueError, match=message):
            use(trainer_of(tmp_path, examples))


@pytest.mark.parametrize("ce_weight", [0.0, 1.0])
@pytest.mark.parametrize(
    ("column", "token", "rule"),
    [
        ("labels", VOCABULARY, "0 to 60, or -100 where nothing is learned"),
        ("labels", -5, "0 to 60, or -100 where nothing is learned"),
        ("shift_labels", -5, "0 to 60, or -100 where nothing is learned"),
        ("input_ids", VOCABULARY, "0 to 60"),
        ("input_ids", -100, "0 to 60"),
    ],
)
def test_tokens_that_the_models_do_not_know_are_refused(
    tmp_path: Path, column: str, token: int, rule: str, ce_weight: float
) -> None:
    examples: list[Any] = [{**example, "shift_labels": example["labels"]} for example in labelled_examples(8)]
    examples[6][column] = examples[6][column].clone()
    examples[6][column][9] = token
    trainer = trainer_of(tmp_path, examples, ce_weight=ce_weight, train_sampling_strategy="sequential", max_steps=2)
    found = rf"{column} has {token} at token 9 of row 2 of a batch, and the models know 61 tokens: it must be {rule}\. "
    with pytest.raises(ValueError, match=found):
        trainer.train()
    assert trainer.state.global_step == 0  # the data loader is a batch ahead
    with pytest.raises(ValueError, match=found.replace("row 2", r"row \d")):
        trainer.evaluate()


def test_the_fewest_tokens_that_a_model_has_embeddings_for_count(tmp_path: Path) -> None:
    teacher, examples = tiny_qwen3(), labelled_examples(8)
    teacher.set_input_embeddings(torch.nn.Embedding(50, 48))
    trainer = DistillationTrainer(tiny_llama(), teacher, config(tmp_path, max_steps=1), train_dataset=examples)
    with pytest.raises(ValueError, match=r"input_ids has 5[0-9] at token .* and the models know 50 tokens"):
        trainer.train()
