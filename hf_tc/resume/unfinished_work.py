# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Where unfinished work lies until its result appears whole; and whether that can be written, asked before the work.

A command works in a folder beside its result and saves the result there, too. Only a complete one gets its own name, so
that whenever the process dies, the same command goes on or finds that nothing is left to do.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_tc.resume.arguments import check_same_arguments, record_arguments

SAVED_FILE = "saved.json"  # there once the result is complete: the arguments that gave it


def unfinished_folder(out: Path) -> Path:
    """`out`.unfinished, beside `out`."""
    return out.with_name(f"{out.name}.unfinished")


class WorkFolder:
    """`out`.unfinished, where a command keeps its work until the folder `out` can appear.

    Attributes:
        folder: for layers or checkpoints to go on from; made by whoever writes there.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self.folder = unfinished_folder(self.out)
        self._result, self._saved = self.folder / "result", self.folder / SAVED_FILE

    def has_result(self, arguments: dict[str, Any]) -> bool:
        """Whether all that is left is to `publish` what an earlier process saved.

        Raises:
            ValueError: that was saved by other arguments; or `out` is occupied or cannot be written.
        """
        if self._saved.exists():
            check_same_arguments(self._saved, arguments)
            return True
        check_not_occupied(self.out)
        check_writable(self.out)
        return False

    def save(self, write: Callable[[Path], Any], arguments: dict[str, Any]) -> None:
        """Has `write` save the result to an empty folder, and remembers that it is complete."""
        shutil.rmtree(self._result, ignore_errors=True)
        self._result.mkdir(parents=True)
        write(self._result)
        record_arguments(self._saved, arguments)

    def publish(self) -> None:
        """Gives the saved result its name and removes everything else."""
        if self._result.exists():
            if self.out.exists() and not _names(self.out) <= _names(self._result):
                check_not_occupied(self.out)
            try:
                self._result.rename(self.out)
            except OSError:  # `out` is a mounted disk or, on some systems, there; a copy that is cut off is repeated
                shutil.copytree(self._result, self.out, dirs_exist_ok=True)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != self._saved:
                path.unlink()
        self._saved.unlink()
        self.folder.rmdir()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else {""}


def check_not_occupied(folder: Path) -> None:
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
        size, unit = (2**30, "GiB") if needed >= 2**30 else (2**20, "MiB")
        raise ValueError(
            f"{folder} needs {needed / size:.2f} {unit}, {free / size:.2f} {unit} are free there. Make room, or choose "
            "a folder on another disk."
        )


def _existing_ancestor(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
