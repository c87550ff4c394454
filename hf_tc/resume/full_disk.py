# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A disk that is full says so, with what is kept and how to go on; libraries tell it each in their own way."""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# What torch.save cannot write it calls an unexpected position in a file.
OF_TORCH_SAVE = ("inline_container", "PytorchStreamWriter")
ALMOST_NOTHING = 2**20  # bytes


@contextmanager
def full_disk_advice(folder: Path, advice: Callable[[], str]) -> Iterator[None]:
    """Raises an `OSError` that ends with the advice where what is done inside fails for a full disk.

    Args:
        folder: on that disk.
        advice: what is kept and how to go on; asked for once it is needed.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_of_a_full_disk(error, folder):
            raise
        raised = OSError(f"No space is left on the disk of {folder}. {advice()}")
        raised.errno = errno.ENOSPC
        raise raised from error


def _is_of_a_full_disk(error: Exception, folder: Path) -> bool:
    if getattr(error, "errno", None) in NO_ROOM or "No space left" in str(error):
        return True
    is_of_torch_save = isinstance(error, RuntimeError) and any(name in str(error) for name in OF_TORCH_SAVE)
    return is_of_torch_save and shutil.disk_usage(folder).free < ALMOST_NOTHING
