# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Scores on disk as they come, so that an interrupted selection goes on where it stopped."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_tc.resume.arguments import ARGUMENTS_FILE, record_arguments, whole_lines

SCORES_FILE = "scores.jsonl"


class ScoreLog:
    """What was measured already, by name: one JSON line each.

    Args:
        folder: made if it does not exist.
        arguments: everything a score depends on, JSON-able.

    Raises:
        ValueError: the folder has scores measured with other arguments; the message names them.
    """

    def __init__(self, folder: str | Path, arguments: dict[str, Any]) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record_arguments(folder / ARGUMENTS_FILE, arguments)
        self.path = folder / SCORES_FILE
        self._rows: dict[str, dict[str, Any]] = {}
        for line in whole_lines(self.path):
            row = json.loads(line)
            self._rows[row["name"]] = row

    def score(self, name: str, measure: Callable[[], float]) -> float:
        """The score of that name: read, or measured and written. What is not finite is infinitely bad."""
        if name not in self._rows:
            start = time.perf_counter()
            score = measure()
            row = {
                "name": name,
                "score": score if math.isfinite(score) else None,
                "seconds": time.perf_counter() - start,
            }
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self._rows[name] = row
        score = self._rows[name]["score"]
        return math.inf if score is None else score

    def seconds(self, names: set[str]) -> float:
        """What measuring these took, in this process or an earlier one."""
        return sum(self._rows[name]["seconds"] for name in names)
