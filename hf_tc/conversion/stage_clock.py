# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Where the time of a conversion goes: seconds by stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
        """Inside, time is that stage's. Stages of one name add up."""
        self._book()
        self.seconds.setdefault(name, 0.0)
        self._running.append(name)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def _book(self) -> None:
        """Gives the time since the last change to the stage that runs."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # or a stage's work would be counted where its result is waited for
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
