# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A small Qwen3 that finds needles, trained from nothing: a teacher whose answers over long distances can be lost."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from .bench import clock
from .needle_task import SPECIAL, NeedleTask, accuracy, answer_positions

LOOKED_UP_WEIGHT = 0.9  # of the loss; the rest is for all tokens alike
REPEATS_LENGTH = 64  # tokens of the first lesson's texts
REPEATS_KNOWN = 0.9  # accuracy at which it ends
LENGTH_FACTORS = (1, 2, 4)  # of training and probing, times the base length
TOKENS_PER_QUESTION = 8  # of a training text
CHECK_TEXTS = 128
CHECK_EVERY = 50  # steps


@dataclass(frozen=True)
class Recipe:
    """Size of the teacher and length of its training; texts are LENGTH_FACTORS times `base_length` long."""

    layers: int
    hidden: int
    head_dim: int
    base_length: int
    steps: int
    batch_tokens: int
    learning_rate: float
    good_enough: float = 0.995  # accuracy at each length at which training ends early


def untrained_teacher(task: NeedleTask, recipe: Recipe, seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    heads = recipe.hidden // recipe.head_dim
    config = Qwen3Config(
        vocab_size=task.vocab_size, hidden_size=recipe.hidden, intermediate_size=2 * recipe.hidden,
        num_hidden_layers=recipe.layers, num_attention_heads=heads, num_key_value_heads=max(1, heads // 2),
        head_dim=recipe.head_dim, max_position_embeddings=8 * recipe.base_length, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def train(task: NeedleTask, recipe: Recipe, device: str, seed: int) -> PreTrainedModel:
    """A teacher that answers; prints its accuracy on the way, at 1, 2 and 4 times the base length."""
    model = untrained_teacher(task, recipe, seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, recipe.steps))
    generator, start, repeats = torch.Generator().manual_seed(seed), clock(), True
    for step in range(1, recipe.steps + 1):
        text, asked = _lesson(task, recipe, repeats, generator, device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type != "cpu"):
            logits = model(input_ids=text).logits
        loss = next_token_loss(logits, text, asked)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % CHECK_EVERY == 0 or step == recipe.steps:
            known = (logits[:, :-1].argmax(-1) == text[:, 1:])[asked[:, 1:]].float().mean().item()
            repeats = repeats and known < REPEATS_KNOWN
            found = probe_accuracies(model.eval(), task, recipe, seed=seed + 1)
            model.train()
            shown = ", ".join(f"{x:.3f}" for x in found)
            lesson = "repeats" if repeats else "needles"
            print(f"step {step}: {lesson} {known:.3f}, accuracy {shown}, {clock() - start:.0f} s", flush=True)
            if min(found) >= recipe.good_enough:
                break
    return model.eval()


def _lesson(
    task: NeedleTask, recipe: Recipe, repeats: bool, generator: torch.Generator, device: str
) -> tuple[Tensor, Tensor]:
    """Texts, and which of their tokens are to be looked up earlier in them.

    Repeats first: in them every token is such a one, so that looking up is learnt in hundreds of steps, not thousands.
    """
    if repeats:
        rows, length = recipe.batch_tokens // REPEATS_LENGTH, REPEATS_LENGTH
        text = repeated_texts(task, rows, length, generator)
        asked = (torch.arange(length) > length // 2).expand(rows, length)
    else:
        length = recipe.base_length * LENGTH_FACTORS[int(torch.randint(3, (), generator=generator))]
        text = needle_texts(task, recipe.batch_tokens // length, length, generator)
        asked = answer_positions(text)
    return text.to(device), asked.to(device)


def repeated_texts(task: NeedleTask, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """Random keys and values `[rows, length]`; the second half repeats the first from a random place on, cyclically."""
    half = length // 2
    first = torch.randint(SPECIAL + task.filler, task.vocab_size, (rows, half), generator=generator)
    start = torch.randint(half, (rows, 1), generator=generator)
    return torch.cat([first, first.gather(1, (start + torch.arange(half)) % half)], dim=1)


def needle_texts(task: NeedleTask, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """Training and calibration texts `[rows, length]`: few needles or many, and several questions."""
    questions = length // TOKENS_PER_QUESTION
    tokens_per_needle = TOKENS_PER_QUESTION * 2 ** int(torch.randint(4, (), generator=generator))
    needles = min(task.keys, max(2, length // tokens_per_needle))
    return task.texts(rows, length, generator, needles, questions)


def probe_accuracies(model: torch.nn.Module, task: NeedleTask, recipe: Recipe, seed: int) -> list[float]:
    """At 1, 2 and 4 times the base length, one question a text."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (recipe.base_length * factor for factor in LENGTH_FACTORS)
    return [accuracy(model, task.texts(CHECK_TEXTS, length, generator)) for length in lengths]


def next_token_loss(logits: Tensor, text: Tensor, asked: Tensor) -> Tensor:
    """Cross entropy, tokens that can be looked up weighed up: they are few, and the rest cannot be known for sure."""
    per_token = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), text[:, 1:].flatten(), reduction="none")
    looked_up = per_token[asked[:, 1:].flatten()]
    return LOOKED_UP_WEIGHT * looked_up.mean() + (1 - LOOKED_UP_WEIGHT) * per_token.mean()


def _cosine(step: int, steps: int) -> float:
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) + 0.02
