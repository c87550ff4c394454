# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Predictions that count more or less than one, in the loss, whatever the batches, and in the evaluation."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from distillation_runs import config, logged
from tiny_causal_lms import labelled_examples, tiny_llama, tiny_qwen3
from torch import Tensor, nn

from hf_tc.distillation import DistillationTrainer


def weighted_examples(count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    examples = labelled_examples(count)
    return [{**example, "token_weights": 0.1 * torch.rand(12, generator=generator)} for example in examples]


def by_hand(student: nn.Module, teacher: nn.Module, examples: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Weighted means of the KL and of the student's negative log-likelihood."""
    sums, total = torch.zeros(2), 0.0
    for example in examples:
        ids, labels, weights = example["input_ids"][None], example["labels"], example["token_weights"]
        log_q, log_p = (model(ids).logits[0].log_softmax(-1) for model in (student, teacher))
        for position in range(len(labels) - 1):
            if labels[position + 1] != -100:
                kl = (log_p[position].detach().exp() * (log_p[position].detach() - log_q[position])).sum()
                nll = F.nll_loss(log_q[position], labels[position + 1])
                sums = sums + weights[position] * torch.stack([kl, nll])
                total += weights[position].item()
    assert total < len(examples)  # so that a count of tokens would show
    return sums[0] / total, sums[1] / total


def trainer(folder: Path, data: Any, **changes: Any) -> DistillationTrainer:
    options = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "max_steps": 1, **changes}
    arguments = config(folder, **options)
    return DistillationTrainer(tiny_llama(), tiny_qwen3(), arguments, train_dataset=data, eval_dataset=data)


@pytest.mark.parametrize("size", [8, 4, 2])
def test_the_loss_is_the_mean_per_weight_whatever_the_batches(tmp_path: Path, size: int) -> None:
    examples, before = weighted_examples(8), tiny_llama()
    batches = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
    run = trainer(tmp_path, examples, ce_weight=0.3, **batches)
    run.train()
    kl, nll = by_hand(before, tiny_qwen3().eval(), examples)
    expected = 0.7 * kl + 0.3 * nll
    expected.backward()
    assert logged(run, "loss")[0] == pytest.approx(expected.item(), rel=1e-4)
    for old, new in zip(before.parameters(), run.model.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.1 * old.grad, rtol=1e-4, atol=1e-6)


def test_evaluation_is_the_mean_per_weight(tmp_path: Path) -> None:
    examples = weighted_examples(7)
    with torch.no_grad():
        kl, nll = by_hand(tiny_llama().eval(), tiny_qwen3().eval(), examples)
    metrics = trainer(tmp_path, examples, per_device_eval_batch_size=3).evaluate()
    assert metrics["eval_loss"] == pytest.approx(kl.item(), rel=1e-5)
    assert metrics["eval_kl"] == pytest.approx(kl.item(), rel=1e-5)
    assert metrics["eval_student_perplexity"] == pytest.approx(math.exp(nll.item()), rel=1e-5)


def test_equal_weights_change_nothing_and_zeros_are_masks(tmp_path: Path) -> None:
    plain, equal = labelled_examples(8), [{**x, "token_weights": torch.full((12,), 0.3)} for x in labelled_examples(8)]
    masked = [
        {"input_ids": x["input_ids"], "token_weights": F.pad(x["labels"][1:] != -100, (0, 1)).float()} for x in plain
    ]
    runs = [trainer(tmp_path, copy.deepcopy(data), max_steps=3) for data in (plain, equal, masked)]
    for run in runs:
        run.train()
    for run in runs[1:]:
        assert logged(run, "loss") == pytest.approx(logged(runs[0], "loss"), rel=1e-5)


def test_weights_that_are_all_zero_are_nothing_to_learn(tmp_path: Path) -> None:
    run = trainer(tmp_path, [{**x, "token_weights": torch.zeros(12)} for x in labelled_examples(8)])
    with pytest.raises(ValueError, match=r"No token of the training data is labelled.*token_weights, if any, above 0"):
        run.train()
    with pytest.raises(ValueError, match=r"No token of the evaluation dataset is labelled.*token_weights"):
        run.evaluate()


@pytest.mark.parametrize("stages", [None, ["48:12", "48:24"]])
def test_packed_documents_are_weighted_as_separate_ones(stages: list[str] | None, tmp_path: Path) -> None:
    """Two of them a row and one in the last, which is filled up; in stages, `RowCollator` makes two rows of each."""
    apart = weighted_examples(7)
    pairs = [apart[start : start + 2] for start in range(0, 7, 2)]
    rows = [{name: torch.cat([document[name] for document in pair]) for name in apart[0]} for pair in pairs]
    packed = [{**row, "position_ids": torch.arange(12).repeat(len(row["labels"]) // 12)} for row in rows]
    runs = [
        trainer(tmp_path, apart, per_device_train_batch_size=7),
        trainer(tmp_path, packed, per_device_train_batch_size=4, curriculum=stages),
    ]
    if stages is None:
        assert runs[1].evaluate()["eval_kl"] == pytest.approx(runs[0].evaluate()["eval_kl"], rel=1e-5)
    (batch,) = runs[1].get_train_dataloader()
    assert batch["token_weights"].shape == ((4, 24) if stages is None else (8, 12))
    for run in runs:
        run.train()
    assert logged(runs[1], "loss") == pytest.approx(logged(runs[0], "loss"), rel=1e-5)
    for one, other in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
