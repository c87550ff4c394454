# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Can the result be written? Asked before minutes of work, and without leaving anything behind."""

import shutil
import tempfile
from pathlib import Path


def refuse_occupied(folder: Path) -> None:
    """Raises `ValueError` for a folder that holds something, or a file of that name."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty. Choose another --out, or remove it.")


def check_writable(folder: Path) -> None:
    """Raises `ValueError` for a folder that cannot be made or written."""
    existing = _existing_ancestor(folder)
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {existing}: {error.strerror}. Choose another --out.") from error


def check_free_space(folder: Path, needed: int) -> None:
    """Raises `ValueError` where fewer than `needed` bytes are free."""
    free = shutil.disk_usage(_existing_ancestor(folder)).free
    if free < needed:
        raise ValueError(
            f"{folder} needs {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free there. Make room, or choose a "
            "folder on another disk."
        )


def _existing_ancestor(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
