# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Does a model still answer? Greedy answers to fixed questions, by the chat template where the tokenizer has one.

Likelihoods do not show it: a model that predicts text well may go in circles once it reads its own words. An answer is
right if it names what was asked for. It is degenerate if it has no letter and no digit, or if fewer than half of its
runs of four tokens are different ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tc.data.chat_template import answer_prompt, has_chat_template
from hf_tc.evaluation.figures import Answer, GenerationChecks
from hf_tc.teachers.offloading import execution_device

MAX_NEW_TOKENS = 64
RUN, FEWEST_RUNS = 4, 8  # tokens of a run; answers with fewer runs are too short to be called repetitive
# A question, and words one of which a right answer has.
QUESTIONS = {
    "What is the capital of France?": ("paris",),
    "What is the capital of Japan?": ("tokyo",),
    "What color is the sky on a clear day?": ("blue",),
    "How many days are there in a week?": ("seven", "7"),
    "What is 2 + 2?": ("four", "4"),
    "What is the largest planet in our solar system?": ("jupiter",),
    "What is frozen water called?": ("ice",),
    "What is the opposite of hot?": ("cold",),
    "Which animal barks and is often kept as a pet?": ("dog", "dogs"),
    "Which ocean lies between Europe and North America?": ("atlantic",),
    "Who wrote the play Romeo and Juliet?": ("shakespeare",),
    "What star does the Earth go around?": ("sun",),
}
NEXT_QUESTION = "\nQuestion:"  # with which a model that was not trained to chat goes on by itself


@torch.no_grad()
def check_generation(model: PreTrainedModel, tokenizer: Any) -> GenerationChecks:
    """Answers of a causal LM in eval mode to all questions, in one batch."""
    prompts = [_prompt(question, tokenizer) for question in QUESTIONS]
    answers = []
    for (question, accepted), text in zip(QUESTIONS.items(), _continuations(model, tokenizer, prompts), strict=True):
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        answers.append(Answer(question, text, is_right(text, accepted), is_degenerate(text, tokens)))
    return GenerationChecks(
        right=sum(answer.is_right for answer in answers) / len(answers),
        degenerate=sum(answer.is_degenerate for answer in answers) / len(answers),
        answers=answers,
    )


def is_right(text: str, accepted: Sequence[str]) -> bool:
    """Whether a text has one of the words, in lower case, as a whole word."""
    return not set(accepted).isdisjoint(re.findall(r"\w+", text.lower()))


def is_degenerate(text: str, tokens: Sequence[int]) -> bool:
    """Whether a text is empty or goes in circles; see above."""
    runs = [tuple(tokens[start : start + RUN]) for start in range(len(tokens) - RUN + 1)]
    goes_in_circles = len(runs) >= FEWEST_RUNS and 2 * len(set(runs)) < len(runs)
    return goes_in_circles or not any(character.isalnum() for character in text)


def _prompt(question: str, tokenizer: Any) -> list[int]:
    if not has_chat_template(tokenizer):
        return tokenizer(f"Question: {question}\nAnswer:")["input_ids"]
    return tokenizer(answer_prompt(question, tokenizer), add_special_tokens=False)["input_ids"]


def _continuations(model: PreTrainedModel, tokenizer: Any, prompts: list[list[int]]) -> list[str]:
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    input_ids, mask = left_padded(prompts, padding)
    device = execution_device(model.get_input_embeddings())
    generated = model.generate(  # type: ignore[operator]  # of GenerationMixin
        input_ids=input_ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=MAX_NEW_TOKENS,
        pad_token_id=padding,
        # The model's own words: no sampling, and no penalty that keeps it from going in circles.
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        temperature=None,
        top_p=None,
        top_k=None,
    )
    texts = tokenizer.batch_decode(generated[:, input_ids.shape[1] :], skip_special_tokens=True)
    return [text.split(NEXT_QUESTION)[0].strip() for text in texts]


def left_padded(rows: list[list[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, [B, T] each, all rows ending together."""
    longest = max(map(len, rows))
    ids = torch.tensor([[padding] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
