# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Where documents begin and end, for the kinds of chat templates and tokenizers that there are."""

from typing import Any

import pytest
from conversion_inputs import letter_teacher
from student_folders import VOCABULARY, letter_tokenizer

from hf_tc.data.text_or_path import BOTH, CHAT, FREE
from hf_tc.data.token_blocks import CalibrationDataError
from hf_tc.sampling.prompts import kinds_of, prompts_of

BOS, EOS = VOCABULARY.index("<s>"), VOCABULARY.index("</s>")
# As Llama's, with bos before the conversation, and as SmolLM2's, with bos and eos around each turn.
BOS_ONCE = "<s>{% for m in messages %}{{ m.role + ': ' + m.content + '</s>' }}{% endfor %}"
BOS_ONCE += "{% if add_generation_prompt %}assistant: {% endif %}"
BOS_AS_MARK = "{% for m in messages %}{{ '<s>' + m.role + ': ' + m.content + '</s>' }}{% endfor %}"
BOS_AS_MARK += "{% if add_generation_prompt %}<s>assistant: {% endif %}"


def tokenizer_with(template: str | None) -> Any:
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_marks_of_turns_end_them() -> None:
    tokenizer = tokenizer_with(BOS_ONCE)
    prompts = prompts_of(letter_teacher(), tokenizer, (CHAT, FREE))
    assert tokenizer.decode(prompts.first[CHAT]) == "<s>user:"
    assert prompts.first[FREE] == [BOS]
    assert prompts.stop_ids == {BOS, EOS}


def test_plain_words_end_turns_too() -> None:
    tokenizer = letter_tokenizer()
    prompts = prompts_of(letter_teacher(), tokenizer, (CHAT,))
    assert tokenizer.decode(prompts.first[CHAT]) == "user:"
    assert (prompts.user_end, prompts.answer_end) == ("assistant:", "user:")
    assert prompts.stop_ids == {EOS}


def test_a_mark_of_turns_starts_no_free_text() -> None:
    teacher, tokenizer = letter_teacher(), tokenizer_with(BOS_AS_MARK)
    assert prompts_of(teacher, tokenizer, (CHAT,)).stop_ids == {BOS, EOS}
    with pytest.raises(CalibrationDataError, match=r"no token that starts one.*sampled:chat"):
        prompts_of(teacher, tokenizer, (FREE,))
    teacher.config.bos_token_id = 3
    assert prompts_of(teacher, tokenizer, (FREE,)).first == {FREE: [3]}


def test_eos_starts_a_text_where_there_is_no_bos() -> None:
    teacher, tokenizer = letter_teacher(bos_token_id=None), tokenizer_with(None)
    assert prompts_of(teacher, tokenizer, (FREE,)).first == {FREE: [BOS]}
    tokenizer.bos_token = None
    assert prompts_of(teacher, tokenizer, (FREE,)).first == {FREE: [EOS]}


def test_every_eos_of_the_teacher_ends_a_text() -> None:
    teacher = letter_teacher()
    teacher.generation_config.eos_token_id = [EOS, 9]
    assert prompts_of(teacher, tokenizer_with(None), (FREE,)).stop_ids == {BOS, EOS, 9}


def test_both_is_free_text_alone_without_a_template() -> None:
    assert kinds_of(BOTH, letter_tokenizer()) == (CHAT, FREE)
    assert kinds_of(BOTH, tokenizer_with(None)) == (FREE,)
    with pytest.raises(CalibrationDataError, match=r"no chat template.*sampled:free"):
        kinds_of(CHAT, tokenizer_with(None))
    with pytest.raises(CalibrationDataError, match="'prose'; it must be one of chat, free, both"):
        kinds_of("prose", letter_tokenizer())


@pytest.mark.parametrize(("template", "times"), [("{{ messages[0].content * 2 }}", 2), ("nothing", 0)])
def test_a_template_that_changes_messages_is_refused(template: str, times: int) -> None:
    with pytest.raises(CalibrationDataError, match=f"writes a message {times} times"):
        prompts_of(letter_teacher(), tokenizer_with(template), (CHAT,))
