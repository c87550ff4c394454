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

from hf_tc.distillation.collator import TargetsCollator, default_collator, weights_of

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


@pytest.mark.parametrize("name", ["assistant_masks", "completion_mask"])
@pytest.mark.parametrize("bad", [2, -1, 0.5, float("nan")])
def test_a_mask_of_other_numbers_than_0_and_1_is_refused(name: str, bad: float) -> None:
    collate = TargetsCollator(default_collator(tokenizer("right")))
    with pytest.raises(ValueError, match=f"{name} has {bad} at token 2; it must be 1 where a token is learned and 0"):
        collate([{"input_ids": [5, 6, 7], name: [0, 1, bad]}])
    for mask in ([False, True, True], [0.0, 1.0, 1.0]):
        assert collate([{"input_ids": [5, 6, 7], name: mask}])["labels"].tolist() == [[-100, 6, 7]]


def test_an_attention_mask_that_numbers_documents_is_refused() -> None:
    example = {"input_ids": [5, 6, 7], "labels": [5, 6, 7], "attention_mask": [1, 2, 2]}
    with pytest.raises(ValueError, match="attention_mask has 2 at token 1; it must be 1 at tokens and 0 at padding"):
        TargetsCollator(default_collator(None))([example])


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


WEIGHTED: list[Any] = [
    {"input_ids": [5, 6, 7, 8], "token_weights": [1, 0.5, 2, 3]},
    {"input_ids": [8, 9], "token_weights": [0.25, 4]},
]


@pytest.mark.parametrize(("side", "laid"), [("right", [0.25, 4, 0, 0]), ("left", [0, 0, 0.25, 4])])
def test_what_is_said_of_tokens_lies_beside_them(side: str, laid: list[float]) -> None:
    batch = TargetsCollator(default_collator(tokenizer(side)))(WEIGHTED)
    assert batch["token_weights"].tolist() == [[1, 0.5, 2, 3], laid]
    counted = [[1, 0.5, 2, 0], [0.25, 0, 0, 0] if side == "right" else [0, 0, 0.25, 0]]
    assert weights_of(batch).tolist() == counted
    taught = [{**example, "teacher_ids": torch.tensor(example["input_ids"])[:, None]} for example in WEIGHTED]
    ids = TargetsCollator(default_collator(tokenizer(side)))(taught)["teacher_ids"]
    assert ids.shape == (2, 4, 1)
    assert ids[1, :, 0].tolist() == ([8, 9, 0, 0] if side == "right" else [0, 0, 8, 9])


def test_an_example_of_padding_tokens_alone_is_told_by_its_mask() -> None:
    short = {"input_ids": [EOS, EOS], "token_weights": [1, 2]}
    for side, laid in (("right", [1, 2, 0, 0]), ("left", [0, 0, 1, 2])):
        batch = TargetsCollator(default_collator(tokenizer(side)))([WEIGHTED[0], short])
        assert batch["token_weights"][1].tolist() == laid


def test_what_is_said_of_tokens_is_flattened_with_them() -> None:
    batch = TargetsCollator(DataCollatorWithFlattening())(WEIGHTED)
    assert batch["token_weights"].tolist() == [[1, 0.5, 2, 3, 0.25, 4]]
    assert weights_of(batch).tolist() == [[1, 0.5, 2, 0, 0.25, 0]]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -0.5, 1], r"token_weights has -0\.5 at token 1; a weight must be a finite number, 0 or more"),
        ([1, 1, float("nan")], "token_weights has nan at token 2"),
        ([1, float("inf"), 1], "token_weights has inf at token 1"),
        ([1, 1], r"3 input_ids and token_weights of shape \(2,\), which must have one a token"),
        ([[1, 1]] * 3, r"token_weights of shape \(3, 2\); they must be one number a token"),
        (None, "Some examples have token_weights and one has none"),
    ],
)
def test_bad_weights_are_refused(weights: Any, message: str) -> None:
    examples = [
        {"input_ids": [4, 5, 6], "token_weights": [1, 1, 1]},
        {"input_ids": [4, 5, 6], "token_weights": weights},
    ]
    with pytest.raises(ValueError, match=message):
        TargetsCollator(default_collator(None))(examples)


def test_a_collator_that_cuts_tokens_is_refused_where_something_is_said_of_them() -> None:
    def cut(features: list[Any]) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([feature["input_ids"][:2] for feature in features])}

    with pytest.raises(ValueError, match="2 rows of 2 tokens that the collator made of 2 examples do not hold these"):
        TargetsCollator(cut)(WEIGHTED)
