# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which positions of a batch are targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import DataCollatorWithFlattening, PreTrainedTokenizerFast, default_data_collator

from hf_tc.distillation.collator import TargetsCollator, default_collator

EOS = 0


def tokenizer(padding_side: str) -> PreTrainedTokenizerFast:
    vocabulary = {"<eos>": EOS, **{f"w{index}": index for index in range(1, 20)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>")),
        eos_token="<eos>",
        pad_token="<eos>",
        padding_side=padding_side,
    )


def test_right_padding_is_no_target_but_a_real_eos_is() -> None:
    collate = TargetsCollator(default_collator(tokenizer("right")))
    batch = collate([{"input_ids": [5, 6, EOS, 7, EOS]}, {"input_ids": [8, 9, EOS]}])
    assert batch["labels"].tolist() == [[5, 6, EOS, 7, EOS], [8, 9, EOS, -100, -100]]
    assert batch["shift_labels"].tolist() == [[6, EOS, 7, EOS, -100], [9, EOS, -100, -100, -100]]


def test_left_padding_predicts_nothing() -> None:
    collate = TargetsCollator(default_collator(tokenizer("left")))
    batch = collate([{"input_ids": [5, 6, 7, 8]}, {"input_ids": [8, 9]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [EOS, EOS, 8, 9]]
    assert batch["shift_labels"].tolist() == [[6, 7, 8, -100], [-100, -100, 9, -100]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_given_labels_are_kept_and_padded(side: str) -> None:
    collate = TargetsCollator(default_collator(tokenizer(side)))
    features: list[Any] = [
        {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]},
        {"input_ids": [8, 9], "labels": [-100, 9]},
    ]
    batch = collate(features)
    assert batch["shift_labels"].ne(-100).sum() == 3
    assert batch["shift_labels"][0].tolist() == [-100, 7, 8, -100]


def test_blocks_need_no_tokenizer() -> None:
    batch = TargetsCollator(default_collator(None))([{"input_ids": torch.tensor([4, 5, 6])}] * 2)
    assert batch["shift_labels"].tolist() == [[5, 6, -100]] * 2
    assert default_collator(None) is default_data_collator


def test_flattened_documents_do_not_predict_each_other() -> None:
    batch = TargetsCollator(DataCollatorWithFlattening())([{"input_ids": [4, 5, 6]}, {"input_ids": [7, 8]}])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["shift_labels"].tolist() == [[5, 6, -100, 8, -100]]
