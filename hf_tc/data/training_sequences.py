# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What all layers together learn from: calibration text, and sequences made of it that the teacher answers as well.

Of every four, two are the text, one is the text corrupted, against overfitting, and one repeats passages of it, without
which a student finds hardly anything again (`repeated_passages`).
"""

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from hf_tc.data.corrupted_sequences import corrupted_sequences
from hf_tc.data.repeated_passages import drawn_passage_tokens, repeated_passages
from hf_tc.data.token_blocks import NO_START, after_start


def training_sequences(blocks: Tensor, rows: int, seed: int, start: Tensor = NO_START) -> Iterator[Tensor]:
    """Minibatches `[rows, T]` without end, from blocks `[N, T]`; the blocks themselves in seeded orders.

    Args:
        blocks: T is 4 at least, `start` not counted.
        start: `[P]`, what every block begins with, and so every row: bos, or nothing; see `shared_start`.
    """
    generator, blocks = torch.Generator().manual_seed(seed), blocks[:, len(start) :].cpu().contiguous()
    order: list[int] = []
    for step in count():
        batch = []
        for number in range(step * rows, (step + 1) * rows):
            if number % 2 == 0:
                order = order or torch.randperm(len(blocks), generator=generator).tolist()
                batch.append(blocks[order.pop()])
            elif number % 4 == 1:
                batch.append(corrupted_sequences(blocks, 1, seed + number)[0])
            else:
                length = drawn_passage_tokens(blocks.shape[1], generator)
                batch.append(repeated_passages(blocks, 1, seed + number, length).input_ids[0])
        yield after_start(torch.stack(batch), start)
