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


def test_a_batch_without_labelled_tokens_does_no_harm(tmp_path: Path) -> None:
    examples = [{**example, "labels": torch.full_like(example["labels"], -100)} for example in labelled_examples(4)]
    trainer = DistillationTrainer(
        model=tiny_llama(), teacher=tiny_qwen3(), args=config(tmp_path, max_steps=1), train_dataset=examples
    )
    trainer.train()
    assert logged(trainer, "loss") == [0.0]
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    with pytest.raises(ValueError, match="No token of the evaluation dataset is labelled"):
        trainer.evaluate(examples)
