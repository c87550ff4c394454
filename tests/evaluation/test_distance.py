# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a hybrid's distance from its teacher counts, against the whole logits of both."""

import pytest
import torch
import torch.nn.functional as F
from planted import random_blocks, tiny_teacher

from hf_tc.data.repeated_passages import near_and_far
from hf_tc.evaluation.distance import DistanceFromTeacher

TEACHER, MODEL = tiny_teacher().eval(), tiny_teacher(rms_norm_eps=0.1).eval()


@torch.no_grad()
def by_hand(blocks: torch.Tensor, counted: torch.Tensor) -> tuple[float, float]:
    """Means over the counted tokens, each predicted from those before it."""
    of_teacher, of_model = (F.log_softmax(model(blocks).logits[:, :-1].double(), -1) for model in (TEACHER, MODEL))
    kl = (of_teacher.exp() * (of_teacher - of_model)).sum(-1)
    nll = -of_model.gather(2, blocks[:, 1:, None])[..., 0]
    return kl[counted[:, 1:]].mean().item(), nll[counted[:, 1:]].mean().item()


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_only_counted_tokens_count(batch_size: int) -> None:
    blocks = random_blocks(5, 20)
    counted = torch.rand(5, 20, generator=torch.Generator().manual_seed(1)) < 0.3
    counted[2], counted[:, 0] = False, True  # a block without any, and tokens that nothing predicts
    expected = by_hand(blocks, counted)
    assert DistanceFromTeacher(TEACHER, blocks, batch_size, counted)(MODEL) == pytest.approx(expected, rel=1e-4)
    whole = by_hand(blocks, torch.ones_like(counted))
    assert DistanceFromTeacher(TEACHER, blocks, batch_size)(MODEL) == pytest.approx(whole, rel=1e-4)
    assert whole != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(
    ("length", "distances"),
    [(300, [64, 64, 64, 150, 150]), (300, [64, 150]), (300, [64]), (21, [10, 10, 10])],
)
def test_passages_repeat_near_and_far(length: int, distances: list[int]) -> None:
    ids, second = near_and_far(random_blocks(len(distances), length))
    assert ids.shape == second.shape == (len(distances), length)
    for row, marks, distance in zip(ids, second, distances, strict=True):
        places = marks.nonzero().flatten()
        assert places[0] == distance + 1
        assert torch.equal(row[places], row[places - distance])


def test_blocks_too_short_for_passages_are_refused() -> None:
    with pytest.raises(ValueError, match="block of 3 tokens"):
        near_and_far(random_blocks(4, 3))
