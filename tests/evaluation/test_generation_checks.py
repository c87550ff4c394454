# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What counts as right and as degenerate, and that a batch of questions is answered as each alone."""

import pytest
import torch
from student_folders import letter_tokenizer, tiny_student

from hf_tc.evaluation import generation_checks
from hf_tc.evaluation.generation_checks import QUESTIONS, check_generation, is_degenerate, is_right, left_padded


@pytest.mark.parametrize(
    ("text", "right"),
    [("It is PARIS.", True), ("Comparison", False), ("", False), ("parisian", False), ("Lyon, not\nParis", True)],
)
def test_an_answer_is_right_if_it_has_the_word(text: str, right: bool) -> None:
    assert is_right(text, ("paris",)) is right


def test_degenerate_is_what_is_empty_or_goes_in_circles() -> None:
    assert is_degenerate("", [])
    assert is_degenerate(" ...!\n", [1, 2, 3])
    assert not is_degenerate("Paris", [5])
    assert not is_degenerate("a b c", list(range(60)))
    assert is_degenerate("a b c", [1, 2, 3] * 20)
    assert is_degenerate("a b c", [*range(20), *[7] * 40])
    assert not is_degenerate("a b c", [1, 2, 3] * 3)  # short answers may say a thing twice


def test_rows_end_together() -> None:
    ids, mask = left_padded([[5, 6, 7], [8]], padding=0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("has_template", [True, False])
def test_a_batch_is_answered_as_each_question_alone(has_template: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_checks, "MAX_NEW_TOKENS", 12)
    student, tokenizer = tiny_student().eval(), letter_tokenizer()
    # Settings of a model that would hide what it does by itself.
    student.generation_config.update(do_sample=True, temperature=0.5, repetition_penalty=5.0)
    if not has_template:
        tokenizer.chat_template = None
    checks = check_generation(student, tokenizer)
    assert [answer.question for answer in checks.answers] == list(QUESTIONS)
    for question, answer in zip(QUESTIONS, checks.answers, strict=True):
        prompt = f"user: {question}\nassistant: " if has_template else f"Question: {question}\nAnswer:"
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        start = ids.shape[1]
        for _ in range(12):
            ids = torch.cat([ids, student(ids).logits[:, -1:].argmax(-1)], dim=1)
            if ids[0, -1] == tokenizer.eos_token_id:
                break
        assert answer.answer == tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()
    assert checks.right == sum(answer.is_right for answer in checks.answers) / len(QUESTIONS)
    assert checks.degenerate == sum(answer.is_degenerate for answer in checks.answers) / len(QUESTIONS)
