# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which positions of a batch are targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorWithFlattening,
    PreTrainedTokenizerFast,
    default_data_collator,
)

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


PACKED = [[4, 5, 6, 7, 8]]  # documents of three and two tokens


@pytest.mark.parametrize(
    "borders",
    [
        {"position_ids": torch.tensor([[0, 1, 2, 0, 1]])},
        {"cu_seq_lens_q": torch.tensor([0, 3, 5], dtype=torch.int32)},
        {"seq_idx": torch.tensor([[0, 0, 0, 1, 1]], dtype=torch.int32)},
    ],
    ids=lambda borders: next(iter(borders)),
)
@pytest.mark.parametrize("labelled", [False, True])
def test_no_target_lies_across_a_document_border(borders: dict[str, torch.Tensor], labelled: bool) -> None:
    labels = {"labels": torch.tensor(PACKED)} if labelled else {}
    batch = TargetsCollator(lambda features: {"input_ids": torch.tensor(PACKED), **borders, **labels})([{}])
    assert batch["shift_labels"].tolist() == [[5, 6, -100, 8, -100]]


def test_rows_with_positions_of_their_own_and_all_of_flattening() -> None:
    rows: list[Any] = [
        {"input_ids": [4, 5, 6, 7], "position_ids": [0, 1, 0, 1]},
        {"input_ids": [4, 5, 6, 7], "position_ids": [0, 1, 2, 3]},
    ]
    assert TargetsCollator(default_collator(None))(rows)["shift_labels"].tolist() == [
        [5, -100, 7, -100],
        [5, 6, 7, -100],
    ]
    flatten = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    batch = TargetsCollator(flatten)([{"input_ids": [4, 5, 6]}, {"input_ids": [7, 8]}])
    assert batch["shift_labels"].tolist() == [[5, 6, -100, 8, -100]]


@pytest.mark.parametrize("name", ["assistant_masks", "completion_mask"])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_masks_say_what_is_learned(name: str, as_tensors: bool) -> None:
    examples: list[Any] = [
        {"input_ids": [5, 6, 7, 8], name: [0, 0, 1, 1]},
        {"input_ids": [8, 9, 4, 3], name: [1, 0, 0, 1]},
    ]
    if as_tensors:
        examples = [{key: torch.tensor(value) for key, value in example.items()} for example in examples]
    batch = TargetsCollator(default_collator(tokenizer("right")))(examples)
    assert name not in batch
    assert batch["labels"].tolist() == [[-100, -100, 7, 8], [8, -100, -100, 3]]


def test_both_masks_and_labels_hold_together() -> None:
    example = {
        "input_ids": [5, 6, 7, 8],
        "labels": [-100, 6, 7, 8],
        "assistant_masks": [1, 1, 1, 0],
        "completion_mask": [0, 0, 1, 1],
    }
    short = {"input_ids": [5, 6], "labels": [5, 6], "assistant_masks": [0, 1], "completion_mask": [1, 1]}
    batch = TargetsCollator(default_collator(tokenizer("right")))([example, short])
    assert batch["labels"].tolist() == [[-100, -100, 7, -100], [-100, 6, -100, -100]]


@pytest.mark.parametrize(("mask", "found"), [([1], "1"), (None, "none")])
def test_a_mask_that_does_not_fit_is_refused(mask: Any, found: str) -> None:
    with pytest.raises(ValueError, match=rf"3 input_ids and {found} of assistant_masks"):
        TargetsCollator(default_collator(None))([{"input_ids": [4, 5, 6], "assistant_masks": mask}])


def test_a_collator_that_overwrites_labels_is_refused() -> None:
    language_modeling = DataCollatorForLanguageModeling(tokenizer("right"), mlm=False)
    collate = TargetsCollator(language_modeling)
    assert collate([{"input_ids": [4, 5, 6]}])["shift_labels"].tolist() == [[5, 6, -100]]
    with pytest.raises(ValueError, match=r"DataCollatorForLanguageModeling labels 3 tokens .* label 1"):
        collate([{"input_ids": [4, 5, 6], "completion_mask": [0, 0, 1]}])
