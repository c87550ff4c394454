# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.

import torch

from hf_tc.data.corrupted_sequences import corrupted_sequences, number_of_corrupted_sequences

BLOCKS = torch.arange(8 * 100).view(8, 100)


def test_sequences_without_corruption_are_pieces_of_the_joined_blocks() -> None:
    sequences = corrupted_sequences(BLOCKS, 50, seed=0, rate=0.0)
    assert sequences.shape == (50, 100)
    assert torch.equal(sequences, sequences[:, :1] + torch.arange(100))
    assert (sequences[:, 0] % 100 != 0).any()  # not only whole blocks


def test_the_rate_of_replaced_tokens() -> None:
    sequences = corrupted_sequences(BLOCKS, 200, seed=0, rate=0.1)
    follows = (sequences.diff(dim=1) == 1).float().mean().item()
    assert abs(follows - 0.9**2) < 0.02  # both neighbours are original
    assert set(sequences.flatten().tolist()) <= set(range(BLOCKS.numel()))


def test_one_block_has_one_sequence() -> None:
    assert torch.equal(corrupted_sequences(BLOCKS[:1], 3, seed=1, rate=0.0), BLOCKS[:1].expand(3, -1))


def test_the_seed_decides() -> None:
    first, again, other = (corrupted_sequences(BLOCKS, 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_as_many_sequences_as_the_text_and_the_fit_call_for() -> None:
    assert number_of_corrupted_sequences(30, 512, drawn=10_000) == 16 * 30
    assert number_of_corrupted_sequences(10**6, 512, drawn=10**7) == 262_144 // 512
    assert number_of_corrupted_sequences(30, 512, drawn=640) == 320 - 30  # each of all 320 is drawn twice
    assert number_of_corrupted_sequences(30, 512, drawn=0) == 0
