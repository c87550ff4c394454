# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Needles in filler: "mark key value" anywhere in a text, asked for at its end as "ask key", to be answered "value".

Token ids: 0 ends a text, 1 marks a needle, 2 asks, then filler words, keys and values. Filler is a Markov chain in
which each word has a few successors, so that there is something to model beside the needles.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

END, MARK, ASK, SPECIAL = 0, 1, 2, 3
NEEDLE = 3  # tokens of a needle, and of a question with its answer
SUCCESSORS = 4  # of a filler word
PROBE_NEEDLES = 4  # in a text of the probe, one of them asked for
POOL = 2**18  # filler tokens; texts are windows of it


@dataclass(frozen=True)
class NeedleTask:
    """A vocabulary and its filler.

    Attributes:
        filler, keys, values: number of words of each kind.
        seed: of the filler's grammar, the same for training, calibration and evaluation.
    """

    filler: int = 64
    keys: int = 64
    values: int = 64
    seed: int = 0

    @property
    def vocab_size(self) -> int:
        return SPECIAL + self.filler + self.keys + self.values

    @cached_property
    def pool(self) -> Tensor:
        """One long run of the Markov chain, `[POOL]`."""
        generator = torch.Generator().manual_seed(self.seed)
        successors = torch.randint(self.filler, (self.filler, SUCCESSORS), generator=generator)
        choices = torch.randint(SUCCESSORS, (POOL // 1024, 1024), generator=generator)
        word, chain = torch.randint(self.filler, (1024,), generator=generator), []
        for choice in choices:  # 1024 chains side by side
            word = successors[word, choice]
            chain.append(word)
        return torch.stack(chain, dim=1).flatten() + SPECIAL

    def texts(
        self,
        rows: int,
        length: int,
        generator: torch.Generator,
        needles: int = PROBE_NEEDLES,
        questions: int = 1,
        depth: float | None = None,
    ) -> Tensor:
        """Token ids `[rows, length]`: a body with needles, then questions with their answers, then END.

        Args:
            needles: facts in the body, each with a key of its own.
            questions: each asks for any of the needles, so that no answer can be guessed from those before it.
            depth: where the needle of the first question lies: 0 at the start of the body, 1 at its end; anywhere by
                default.

        Raises:
            ValueError: more needles than keys or than places, no needle or no question.
        """
        body = length - NEEDLE * questions - 1
        places = body // NEEDLE
        if questions < 1 or not 0 < needles <= min(self.keys, places):
            raise ValueError(
                f"{questions} questions and {needles} needles: at least one of each is needed, and no more needles "
                f"than the {self.keys} keys and the {places} places in {length} tokens."
            )
        start = torch.randint(POOL - body, (rows, 1), generator=generator)
        text = torch.full((rows, length), END)
        text[:, :body] = self.pool[start + torch.arange(body)]
        key = _distinct(rows, self.keys, needles, generator) + SPECIAL + self.filler
        value = torch.randint(self.values, (rows, needles), generator=generator) + SPECIAL + self.filler + self.keys
        place = _distinct(rows, places, needles, generator)
        if depth is not None:
            wanted = round(depth * (places - 1))
            place = torch.where(place == wanted, place[:, :1], place)  # whoever is there makes room
            place[:, 0] = wanted
        fact = torch.stack([torch.full_like(key, MARK), key, value], dim=-1)
        self._write(text, place * NEEDLE, fact)
        chosen = torch.randint(needles, (rows, questions), generator=generator)
        if depth is not None:
            chosen[:, 0] = 0
        asked = fact.gather(1, chosen[..., None].expand(-1, -1, NEEDLE)).clone()
        asked[..., 0] = ASK
        text[:, body : body + NEEDLE * questions] = asked.flatten(1)
        return text

    @staticmethod
    def _write(text: Tensor, start: Tensor, fact: Tensor) -> None:
        positions = start[..., None] + torch.arange(NEEDLE)
        text.scatter_(1, positions.flatten(1), fact.flatten(1))


def answer_positions(text: Tensor) -> Tensor:
    """`[rows, T]` bool: tokens that are answers, two after an ASK."""
    answers = torch.zeros_like(text, dtype=torch.bool)
    answers[:, 2:] = text[:, :-2] == ASK
    return answers


def _distinct(rows: int, population: int, count: int, generator: torch.Generator) -> Tensor:
    """`[rows, count]` different numbers below `population` in each row."""
    return torch.rand(rows, population, generator=generator).argsort(1)[:, :count]


@torch.no_grad()
def accuracy(model: nn.Module, text: Tensor, batch_tokens: int = 65_536) -> float:
    """Share of answers that the model gives first, reading the text up to each."""
    device, right, total = next(model.parameters()).device, 0, 0
    for rows in text.split(max(1, batch_tokens // text.shape[1])):
        asked = answer_positions(rows)[:, 1:]
        predicted = model(input_ids=rows.to(device)).logits[:, :-1].argmax(-1).cpu()
        right += int((predicted == rows[:, 1:])[asked].sum())
        total += int(asked.sum())
    return right / total
