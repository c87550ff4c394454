# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Heads on the backbone: they take a causal student's weights over, train, save and load through the auto classes."""

import pytest
import torch
from library_names import checkpoint_activations
from tiny_models import pad_rows, student, student_config, token_ids
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from hf_tc.modeling import HybridGDNModel

HEADS = {
    AutoModelForSequenceClassification: {"labels": torch.tensor([0, 2])},
    AutoModelForTokenClassification: {"labels": torch.tensor([[0, 1, 2, 1, 0, 2]] * 2)},
    AutoModelForQuestionAnswering: {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])},
}


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("auto_class", HEADS)
def test_a_head_on_a_students_folder(family: str, auto_class, tmp_path) -> None:
    lm, ids = student(family), token_ids(2, 6)
    lm.save_pretrained(tmp_path / "lm")
    model, report = auto_class.from_pretrained(tmp_path / "lm", num_labels=3, output_loading_info=True)
    assert type(model).__module__ == "hf_tc.modeling.classification_heads"
    assert {name.split(".")[0] for name in report["missing_keys"]} <= {"score", "qa_outputs"}
    assert type(model.base_model) is HybridGDNModel
    hidden = lm.model(ids).last_hidden_state
    assert torch.equal(model.base_model(ids).last_hidden_state, hidden)
    output = model.train()(ids, **HEADS[auto_class])
    output.loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters())
    model.eval().save_pretrained(tmp_path / "head")
    again, report = auto_class.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not report["missing_keys"]
    expected, actual = (m(ids, **HEADS[auto_class]).loss for m in (model, again))
    assert torch.equal(actual, expected)


def test_a_padded_sequence_gets_the_class_it_gets_alone() -> None:
    config = student_config("qwen2")
    config.num_labels = 3
    model = AutoModelForSequenceClassification.from_config(config).eval()
    rows = [token_ids(8), token_ids(5, seed=2)]
    for left in (0, 3):
        ids, mask = pad_rows(rows, [0, left], 8)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(ids, attention_mask=mask, position_ids=positions).logits
        expected = torch.cat([model(row[None]).logits for row in rows])
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_several_labels_and_regression() -> None:
    for labels, target in [(3, torch.ones(2, 3)), (1, torch.tensor([0.5, 2.0]))]:
        config = student_config()
        config.num_labels = labels
        model = AutoModelForSequenceClassification.from_config(config).train()
        model(token_ids(2, 6), labels=target).loss.backward()
        assert model.score.weight.grad.abs().sum() > 0


def test_the_head_resizes_and_checkpoints() -> None:
    config = student_config()
    model = AutoModelForQuestionAnswering.from_config(config)
    model.resize_token_embeddings(70)
    assert model.get_input_embeddings().num_embeddings == config.vocab_size == 70
    checkpoint_activations(model)
    assert model.base_model.gradient_checkpointing
    output = model.train()(token_ids(2, 6), **HEADS[AutoModelForQuestionAnswering])
    output.loss.backward()
