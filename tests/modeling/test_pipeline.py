# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`pipeline("text-generation")` on a saved student: batches, conversations, streaming."""

import logging
from pathlib import Path
from threading import Thread

import pytest
from student_folders import letter_tokenizer, save_student, tiny_student
from transformers import TextGenerationPipeline, TextIteratorStreamer, pipeline

PROMPTS = ["The lamp", "Where the road ends the sea begins, and", "x"]
MESSAGES = [{"role": "user", "content": "Where is the lighthouse?"}]
GREEDY = dict(max_new_tokens=12, do_sample=False, return_full_text=False)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> TextGenerationPipeline:
    folder: Path = tmp_path_factory.mktemp("pipeline") / "student"
    save_student(tiny_student(), folder, letter_tokenizer())
    return pipeline("text-generation", model=str(folder), device="cpu")


def test_the_class_is_known_to_the_pipeline(
    generator: TextGenerationPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        logging.getLogger("transformers").addHandler(caplog.handler)
        pipeline("text-generation", model=generator.model, tokenizer=generator.tokenizer)
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "not supported" not in caplog.text


def test_batched_prompts_continue_as_single_ones(generator: TextGenerationPipeline) -> None:
    single = [generator(prompt, **GREEDY)[0]["generated_text"] for prompt in PROMPTS]
    batched = [rows[0]["generated_text"] for rows in generator(PROMPTS, batch_size=len(PROMPTS), **GREEDY)]
    assert batched == single
    assert len(set(single)) == len(PROMPTS)


def test_conversation_goes_through_the_chat_template(generator: TextGenerationPipeline) -> None:
    answer = generator(MESSAGES, max_new_tokens=12, do_sample=False)[0]["generated_text"]
    prompt = generator.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert answer[0] == MESSAGES[0]
    assert answer[1]["role"] == "assistant"
    assert answer[1]["content"] == generator(prompt, **GREEDY)[0]["generated_text"]


def test_streamed_pieces_make_up_the_text(generator: TextGenerationPipeline) -> None:
    streamer = TextIteratorStreamer(generator.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    # Pieces end at spaces, which a random student comes to once it may not repeat itself.
    options = {**GREEDY, "min_new_tokens": 60, "max_new_tokens": 60, "repetition_penalty": 5.0}
    thread = Thread(target=generator, args=(PROMPTS[1],), kwargs={**options, "streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    whole = generator(PROMPTS[1], **options)[0]["generated_text"]
    assert "".join(pieces) == whole
    assert len([piece for piece in pieces if piece]) > 1
