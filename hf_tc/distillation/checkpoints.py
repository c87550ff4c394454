# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that are there whole or not at all: one that is cut off is passed over, or taken away for a full disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from hf_tc.resume.full_disk import full_disk_advice


class WholeCheckpointMixin:
    """For a `Trainer`: where the disk is full, says so and which checkpoint is kept, and takes the torn one away.

    Raises:
        OSError: the disk is full.
    """

    args: Any
    state: Any

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = Path(self.args.output_dir)
        torn = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

        def advice() -> str:
            shutil.rmtree(torn, ignore_errors=True)
            kept = last_complete_checkpoint(folder)
            kept = "no checkpoint is kept" if kept is None else f"{kept} is kept"
            return (
                f"The checkpoint of step {self.state.global_step} was not written; {kept}. Make room, and go on there."
            )

        with full_disk_advice(folder, advice):
            super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]  # Trainer's


def last_complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a trainer that was written to its end: its state is written last."""
    for path in reversed(sort_checkpoints(str(folder))):
        try:
            json.loads((Path(path) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return path
    return None
