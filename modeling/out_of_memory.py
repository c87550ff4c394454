# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A GPU that runs out of memory says how much was asked for, not which setting needs less: whoever knows adds it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class AdvisedOutOfMemoryError(torch.OutOfMemoryError):
    """The GPU's own message and a line of advice; the GPU's own error is its cause."""


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Inside, `torch.OutOfMemoryError` ends with a line that says what to change.

    Of several, the outermost speaks: it is about what the user called, and so about settings that the user can reach.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        cause = error.__cause__ if isinstance(error, AdvisedOutOfMemoryError) else error
        raise AdvisedOutOfMemoryError(f"{cause}\n{advice}") from cause
