# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Benchmark tasks, scored by lm-eval (github.com/EleutherAI/lm-evaluation-harness): its own, by name, and files.

That package is imported where it is used: it is the extra `eval`.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_tc.evaluation.figures import ACCURACIES, TaskScore
from hf_tc.evaluation.task_files import FORMS, SUFFIXES, read_task_file, task_config

MAIN_METRICS = (*ACCURACIES, "exact_match")  # of those that a task has, the first is its score


def load_tasks(names: Sequence[str | Path]) -> list[Any]:
    """lm-eval's tasks with their data: names of its tasks, groups and tags, and files as `task_files` describes them,
    which are named for their stem.

    Raises:
        ValueError: no such task, its data cannot be had, a file breaks a rule, or two tasks have one name.
        ImportError: lm-eval is not installed.
    """
    files = [Path(name) for name in names if _is_file(name)]
    rows = {path: read_task_file(path) for path in files}  # what can be refused without lm-eval, at once
    try:
        from lm_eval.api.task import ConfigurableTask
    except ImportError as error:
        raise ImportError(f"Tasks need lm-eval ({error}): pip install 'hf_tc[eval]'") from error
    with _quiet():
        found = [ConfigurableTask(config=task_config(path.stem, rows[path])) for path in files]
        found += _named_tasks([str(name) for name in names if not _is_file(name)])
    known = [task.task_name for task in found]
    twice = sorted({name for name in known if known.count(name) > 1})
    if twice:
        raise ValueError(f"Two tasks are called {twice[0]}. Rename a file, or name the task once.")
    return found


def measure_tasks(
    model: PreTrainedModel,
    tokenizer: Any,
    tasks: list[Any],
    *,
    rows: int | None = None,
    batch_size: int = 1,
    show_progress: bool = False,
) -> dict[str, TaskScore]:
    """Scores by name of a causal LM in eval mode; tasks are those of `load_tasks`.

    Args:
        rows: of each task, from its start; all by default.
        batch_size: rows per forward pass.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    class Scorer(HFLM):  # type: ignore[misc]  # lm-eval has no types
        """lm-eval's model of Transformers, whose bars can be turned off."""

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, **options: Any) -> Any:
            return super()._loglikelihood_tokens(requests, disable_tqdm or not show_progress, **options)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return super().generate_until(requests, disable_tqdm or not show_progress)

    with _quiet():
        # No seeds: it would set those of the whole process. No bootstrap: it would start processes.
        unseeded = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed"))
        loaded = TaskManager(include_defaults=False)  # by default it would read the files of all of lm-eval's tasks
        scorer = Scorer(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        results = lm_eval.simple_evaluate(
            scorer, tasks=tasks, task_manager=loaded, limit=rows, bootstrap_iters=0, **unseeded
        )
    return {task.task_name: _score(task, results) for task in tasks}


def _score(task: Any, results: dict[str, Any]) -> TaskScore:
    name = task.task_name
    figures = {key: value for key, value in results["results"][name].items() if "," in key and "_stderr," not in key}
    metrics = {key: key.split(",")[0] for key in figures}  # a key is "metric,filter"
    preferred = [key for wanted in MAIN_METRICS for key, metric in metrics.items() if metric == wanted]
    key = (preferred or list(figures))[0]
    values = [row.get(metrics[key]) for row in results["samples"][name] if row["filter"] == key.split(",")[1]]
    is_mean = all(isinstance(value, int | float) for value in values) and len(values) > 1
    is_mean = is_mean and abs(statistics.fmean(values) - figures[key]) < 1e-9
    return TaskScore(
        metric=metrics[key],
        value=float(figures[key]),
        standard_error=statistics.stdev(values) / len(values) ** 0.5 if is_mean else None,
        rows=results["n-samples"][name]["effective"],
        higher_is_better=results["higher_is_better"][name].get(metrics[key], True),
        has_choices=task.OUTPUT_TYPE == "multiple_choice",
    )


def _is_file(name: str | Path) -> bool:
    return isinstance(name, Path) or name.endswith(SUFFIXES)


def _named_tasks(names: list[str]) -> list[Any]:
    if not names:
        return []
    for name in names:
        if os.sep in name or name.endswith(".json"):
            raise ValueError(f"{name} is no name of a task, and files of tasks end in {' or '.join(SUFFIXES)}.")
    manager = _index_of_tasks()
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"lm-eval has no task {name!r}, and it is no file of JSON lines (.jsonl).{hint}")
    found: list[Any] = []
    faults: dict[str, Exception] = {}
    for name in names:
        try:
            found += manager.load([name])["tasks"].values()
        except Exception as error:  # a data set raises a dozen unrelated kinds
            faults[name] = error
    if faults:
        shown = "; ".join(f"{name!r}: {type(error).__name__}: {error}" for name, error in faults.items())
        raise ValueError(
            f"The data of {len(faults)} of {len(names)} tasks cannot be had: {shown.rstrip('.')}. Where there is no "
            f"network, give rows as files, such as {next(iter(faults))}{SUFFIXES[0]}, of JSON lines with {FORMS}."
        ) from next(iter(faults.values()))
    return found


@functools.cache
def _index_of_tasks() -> Any:
    """lm-eval's TaskManager, which reads thousands of files: several seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's remarks on what it is given: models and data that it did not load."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
