# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Rounds of sampling follow the teacher's probabilities, whatever its generation defaults, and end in time."""

import pytest
import torch
from conversion_inputs import circumstances
from planted import tiny_teacher
from tiny_sizes import VOCABULARY

from hf_tc.sampling import graphed_decoding
from hf_tc.sampling.rounds import ENDED_SHARE, ROUND_TOKENS, sample_round

SHORT, LONG = [1, 5, 9], [1, 17, 4, 22, 30]
ROWS = 1500


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_tokens_are_as_frequent_as_the_teacher_says(family: str) -> None:
    teacher = tiny_teacher(family, sliding_window=4)
    teacher.generation_config.update(do_sample=True, temperature=0.1, top_k=2, repetition_penalty=9.0)
    before = circumstances(teacher)
    rows = [SHORT] * ROWS + [LONG] * (ROWS // 10)
    sampled = sample_round(teacher, rows, (), len(LONG) + 1, seed=0)
    assert circumstances(teacher) == before
    assert [len(row) for row in sampled] == [3] * ROWS + [1] * (ROWS // 10)
    ids = torch.tensor([[*SHORT, *row] for row in sampled[:ROWS]])
    probabilities = teacher(torch.tensor([SHORT])).logits[0, -1].softmax(-1)
    found = ids[:, len(SHORT)].bincount(minlength=VOCABULARY) / ROWS
    # Half the sum of |found - p| is near sqrt(tokens / (2 pi ROWS)), 0.08; another row's p has 0.3 and more.
    assert (found - probabilities).abs().sum() / 2 < 0.13
    # Of later tokens: what they cost on average is the entropy of the teacher.
    log_p = teacher(ids).logits[:, len(SHORT) : -1].log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    assert -log_p.gather(-1, ids[:, len(SHORT) + 1 :, None]).mean().item() == pytest.approx(entropy.item(), rel=0.03)


def test_the_seed_decides_and_nothing_else_is_changed() -> None:
    teacher = tiny_teacher()
    state = torch.get_rng_state()
    first, again, other = (sample_round(teacher, [SHORT] * 8, (2,), 60, seed) for seed in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_end_at_a_stop_token_or_where_their_room_ends() -> None:
    teacher, stops = tiny_teacher(), range(0, VOCABULARY, 3)
    for row in sample_round(teacher, [SHORT] * 40, stops, 99, seed=0):
        assert not any(token in stops for token in row[:-1])
    lengths = [len(row) for row in sample_round(teacher, [SHORT, [1] * 90] * 2, (), 99, seed=0)]
    assert lengths == [9, 9, 9, 9]  # half of the rows have ended: the others wait for the next round
    assert [len(row) for row in sample_round(teacher, [[1]], (), 500, seed=0)] == [ROUND_TOKENS]


def test_a_round_ends_once_enough_rows_have() -> None:
    teacher, stops = tiny_teacher(), (7, 8)
    rows = sample_round(teacher, [SHORT] * 80, stops, 500, seed=0)
    ended = sum(row[-1] in stops for row in rows)
    assert ENDED_SHARE * 80 <= ended < 40
    assert len({len(row) for row in rows if row[-1] not in stops}) == 1


def test_no_position_is_asked_for_that_the_teacher_does_not_have() -> None:
    teacher = tiny_teacher("gpt2", max_position_embeddings=64)
    lengths = [len(row) for row in sample_round(teacher, [[1] * 60, [1]], (), 64, seed=0)]
    assert lengths == [4, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_steps_from_a_graph_give_the_same_tokens(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_teacher(family, sliding_window=4).cuda()
    rows, replays, replay = [SHORT, LONG] * 8, [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replays.append(replay(graph)))
    graphed = sample_round(teacher, rows, (), 60, seed=0)
    assert len(replays) == max(map(len, graphed)) - 1
    monkeypatch.setattr(graphed_decoding, "waits_for_the_gpu", lambda step: True)
    assert sample_round(teacher, rows, (), 60, seed=0) == graphed
    assert len(replays) == max(map(len, graphed)) - 1
