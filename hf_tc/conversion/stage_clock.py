# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The stages of a conversion: the seconds of each, and what to change where one needs more memory than there is."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from hf_tc.modeling.out_of_memory import memory_advice

# What makes a stage need less of a GPU's memory. Layers that are finished stay in the checkpoint_dir whatever happens.
SHORTER_BLOCKS = "a shorter sequence_length"
LESS_MEMORY = {
    "load": 'Set device_map="auto", which leaves on the CPU what does not fit.',
    "build": 'Set device_map="auto", which leaves on the CPU what does not fit.',
    "capture": f'Set {SHORTER_BLOCKS}, or device_map="auto" where weights leave little room.',
    "solve": f'Set fewer calibration_tokens, {SHORTER_BLOCKS}, or device_map="auto" where weights leave little room.',
    "align": f"Set {SHORTER_BLOCKS}, since a step takes one block at least, or alignment_steps=0.",
    "joint": f"Set joint_steps=0, with which layers that are finished in a checkpoint_dir are used as they are, or "
    f"{SHORTER_BLOCKS}.",
    "evaluate": f'Set {SHORTER_BLOCKS}, or device_map="auto" where weights leave little room.',
}


class StageClock:
    """Handed down through a conversion; whatever is a stage of its own says so.

    Attributes:
        seconds: by stage, in the order in which they began. A stage inside another stops that one's time, so that none
            is counted twice.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._start = self._since = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds since the clock was made, inside stages or not."""
        return time.perf_counter() - self._start

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Inside, time is that stage's. Stages of one name add up.

        Raises:
            torch.OutOfMemoryError: from what runs inside, with the stage's line of LESS_MEMORY.
        """
        self._book()
        self.seconds.setdefault(name, 0.0)
        self._running.append(name)
        try:
            with memory_advice(LESS_MEMORY[name]) if name in LESS_MEMORY else nullcontext():
                yield
        finally:
            self._book()
            self._running.pop()

    @contextmanager
    def side_by_side(self, number: int) -> Iterator[list["StageClock"]]:
        """Clocks for so many threads, one each. The time inside is shared out among their stages, in proportion to the
        seconds that each stage took in all threads together: it adds up to what passed, however many there are."""
        self._book()
        clocks, start = [StageClock() for _ in range(number)], self._since
        try:
            yield clocks
        finally:
            took: Counter[str] = Counter()
            for clock in clocks:
                took.update(clock.seconds)
            self._since = time.perf_counter()
            for name, seconds in took.items():
                share = seconds / took.total() if seconds else 0.0
                self.seconds[name] = self.seconds.get(name, 0.0) + share * (self._since - start)

    def _book(self) -> None:
        """Gives the time since the last change to the stage that runs."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # or a stage's work would be counted where its result is waited for
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
