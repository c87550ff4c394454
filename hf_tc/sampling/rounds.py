# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One round of sampling: many rows go on at once, each by the teacher's own probabilities.

Texts differ much in length. A round ends once a quarter of its rows have, and others take their places in the next, so
that most rows of a step are at work; those that go on are read again, which takes a fraction of a round.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from hf_tc.evaluation.generation_checks import left_padded
from hf_tc.modeling.library_cache import cache_argument
from hf_tc.sampling.graphed_decoding import cache_in_place, graphed_decoding
from hf_tc.teachers.nope_layers import evaluating
from hf_tc.teachers.offloading import execution_device
from hf_tc.teachers.positions import most_positions

ROUND_TOKENS = 256  # of a row, at most
CACHE_MULTIPLE = 16  # tokens; fused attention copies masks of other lengths
ENDED_SHARE = 0.25  # of the rows, with which a round ends


class EnoughEnded(StoppingCriteria):
    """Ends rows at a stop token or when their room is used up, and all rows once enough have ended."""

    def __init__(self, stop_ids: Tensor, room: Tensor) -> None:
        self.stop_ids, self.room, self.steps = stop_ids, room, 0
        self.ended = torch.zeros_like(room, dtype=torch.bool)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.steps += 1
        self.ended |= torch.isin(input_ids[:, -1], self.stop_ids) | (self.room <= self.steps)
        return self.ended | (self.ended.float().mean() >= ENDED_SHARE)


@torch.no_grad()
def sample_round(
    teacher: PreTrainedModel, rows: Sequence[list[int]], stop_ids: Collection[int], most_tokens: int, seed: int
) -> list[list[int]]:
    """What the teacher writes after each of the rows of token ids: a few tokens, up to a stop token, itself included.

    Args:
        rows: each of at least one token and of fewer than `most_tokens`, which none will exceed.
        seed: decides the tokens, together with rows and teacher.
    """
    device = execution_device(teacher.get_input_embeddings())
    ids, mask = left_padded(list(rows), 0)
    room = torch.tensor([most_tokens - len(row) for row in rows])
    steps = min(ROUND_TOKENS, int(room.max()), (most_positions(teacher) or most_tokens + ROUND_TOKENS) - ids.shape[1])
    stops = sorted(stop_ids)
    # A cache that grows is copied at every step.
    cache = cache_in_place(teacher, -(-(ids.shape[1] + steps) // CACHE_MULTIPLE) * CACHE_MULTIPLE)
    enough = EnoughEnded(torch.tensor(stops, dtype=torch.long, device=device), room.to(device))
    with _own_probabilities(teacher), evaluating(teacher), _seeded(device, seed), graphed_decoding(teacher, cache):
        generated = teacher.generate(  # type: ignore[operator]  # of GenerationMixin
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=GenerationConfig(
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=steps,
                eos_token_id=stops or None,
                pad_token_id=0,
                disable_compile=True,
            ),
            stopping_criteria=StoppingCriteriaList([enough]),
            **cache_argument(cache),
        )
    new = generated[:, ids.shape[1] :].tolist()
    return [_until_stop(row[:left], stop_ids) for row, left in zip(new, room.tolist(), strict=True)]


def _until_stop(row: list[int], stop_ids: Collection[int]) -> list[int]:
    end = next((index for index, token in enumerate(row) if token in stop_ids), len(row))
    return row[: end + 1]


@contextmanager
def _own_probabilities(teacher: PreTrainedModel) -> Iterator[None]:
    """Without the teacher's generation defaults (penalties, suppressed tokens), which `generate` else fills in."""
    saved, teacher.generation_config = teacher.generation_config, GenerationConfig()
    try:
        yield
    finally:
        teacher.generation_config = saved


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
