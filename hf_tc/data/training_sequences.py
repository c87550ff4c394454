# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What all layers together learn from: calibration text, and sequences made of it that the teacher answers as well."""

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from hf_tc.data.corrupted_sequences import corrupted_sequences


def training_sequences(blocks: Tensor, rows: int, seed: int) -> Iterator[Tensor]:
    """Minibatches `[rows, T]` without end: blocks `[N, T]` in seeded orders, and corrupted sequences, in turn."""
    generator, blocks = torch.Generator().manual_seed(seed), blocks.cpu()
    order: list[int] = []
    for step in count():
        batch = []
        for number in range(step * rows, (step + 1) * rows):
            if number % 2:
                batch.append(corrupted_sequences(blocks, 1, seed + number)[0])
            else:
                order = order or torch.randperm(len(blocks), generator=generator).tolist()
                batch.append(blocks[order.pop()])
        yield torch.stack(batch)
