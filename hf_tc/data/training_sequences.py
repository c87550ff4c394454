# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What all layers together learn from: calibration text, and sequences made of it that the teacher answers as well."""

from collections.abc import Iterator

import torch
from torch import Tensor

from hf_tc.data.corrupted_sequences import corrupted_sequences


def training_sequences(blocks: Tensor, rows: int, seed: int) -> Iterator[Tensor]:
    """Minibatches `[rows, T]` without end: blocks `[N, T]` in seeded orders, and corrupted sequences, in turn."""
    generator = torch.Generator().manual_seed(seed)
    blocks, order, number = blocks.cpu(), [], 0
    while True:
        batch = []
        for number in range(number, number + rows):
            if number % 2:
                batch.append(corrupted_sequences(blocks, 1, seed + number)[0])
            else:
                order = order or torch.randperm(len(blocks), generator=generator).tolist()
                batch.append(blocks[order.pop()])
        number += 1
        yield torch.stack(batch)
