# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The same work in several threads that share torch's, and their end as soon as one fails or the user interrupts.

Operations on the tensors of a small layer gain little from a second thread of their own; a second layer beside the
first takes a whole one.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

import torch

ASK_AGAIN = 5.0  # seconds, more than it takes to tidy up


def run_side_by_side(work: Callable[[int], None], number: int) -> None:
    """Calls `work` with 0, 1, ... `number` - 1, each in a thread with its part of torch's threads; returns when all
    have. A single one runs in the caller's thread. Gradients are on in all of them, whatever the caller has set.

    Raises:
        whatever one of them raises first, or KeyboardInterrupt. The others are stopped then, between two operations.
    """
    if number == 1:
        with torch.enable_grad():
            work(0)
        return
    threads = max(1, torch.get_num_threads() // number)
    ends: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(index: int) -> None:
        try:
            torch.set_num_threads(threads)
            work(index)
        except BaseException as error:  # for the caller, who looks at the first one only: others were stopped then
            ends.put(error)
        else:
            ends.put(None)

    with _torch_threads_as_before(), _stopped_at_the_end() as started:
        for index in range(number):
            started.append(threading.Thread(target=run, args=(index,), name=f"hf_tc-{index}"))
            started[-1].start()
        for _ in started:
            error = _first_of(ends)
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # or it would refer to itself, and the tensors of all its frames stay in memory


def _first_of(ends: "SimpleQueue[BaseException | None]") -> BaseException | None:
    """Waits for the next end, and looks up now and then: a signal that comes just before a wait does not end it, and
    on Windows none does."""
    while True:
        with suppress(Empty):
            return ends.get(timeout=1.0)


@contextmanager
def _torch_threads_as_before() -> Iterator[None]:
    """How many threads torch computes with is a thread's own, and what the last one set is every new thread's."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _stopped_at_the_end() -> Iterator[list[threading.Thread]]:
    """Threads put into the list have ended when this ends: by themselves, or stopped where this ends early."""
    started: list[threading.Thread] = []
    try:
        yield started
    finally:
        for thread in started:
            _stop(thread)
        for thread in started:
            # Python drops an exception that comes while a destructor runs.
            while thread.is_alive():
                thread.join(ASK_AGAIN)
                _stop(thread)


def _stop(thread: threading.Thread) -> None:
    """Raises SystemExit in a thread, as Ctrl-C raises KeyboardInterrupt in the main thread: between two operations, so
    that what `with` and `finally` undo is undone. Nothing is printed of a thread that ends so."""
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
