# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Float32 products of a GPU in TF32, which are twice as fast and read 10 bits of each factor's fraction.

That is three bits more than bfloat16 has, as many as float16, and sums stay in float32.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# The older of the two names, the only one before PyTorch 2.9, cannot be read where a user set the newer one.
NEWER = hasattr(torch.backends.cuda.matmul, "fp32_precision")
NAME, TF32 = ("fp32_precision", "tf32") if NEWER else ("allow_tf32", True)


@contextmanager
def tf32_products() -> Iterator[None]:
    """Products in TF32 until the last of those ends who are inside; what a CUDA graph captures inside stays so.

    The setting is the process's: meanwhile all threads' products are in TF32.
    """
    _setting.enter()
    try:
        yield
    finally:
        _setting.leave()


class _Setting:
    """The first to enter changes the setting, the last to leave puts it back as the first found it: threads enter and
    leave in any order."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before: Any = None

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = getattr(torch.backends.cuda.matmul, NAME)
                self._set(TF32)
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set(self._before)

    def _set(self, value: Any) -> None:
        if getattr(torch.backends.cuda.matmul, NAME) != value:  # setting it would end what it inherits
            setattr(torch.backends.cuda.matmul, NAME, value)


_setting = _Setting()
