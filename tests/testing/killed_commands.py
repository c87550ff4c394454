# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Commands in processes of their own, and what makes such a process kill itself with SIGKILL."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

from hf_tc.cli.main import main
from hf_tc.conversion import checkpoint as conversion_checkpoint

# Forked from a process that has imported everything and run nothing: a second each, instead of ten.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["hf_tc.convert", "hf_tc.distillation.distill", "hf_tc.cli.convert"])


def die(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def layer_done() -> None:
    """Kills the process whenever a layer, or all of them after the joint alignment, is on disk."""
    checkpoint = conversion_checkpoint.ConversionCheckpoint
    for save in (checkpoint.save, checkpoint.save_joint):
        setattr(checkpoint, save.__name__, lambda *args, save=save: die(save(*args)))


def _command(arguments: list[str], prepare: Callable[[], None] | None) -> None:
    if prepare is not None:
        prepare()
    os._exit(main(arguments))


def start(arguments: list[str], prepare: Callable[[], None] | None = None) -> Any:
    """A process that calls `prepare`, then runs the command."""
    process = processes.Process(target=_command, args=(arguments, prepare))
    process.start()
    return process


def status_of(arguments: list[str], prepare: Callable[[], None] | None = None) -> int:
    """How such a process ended: the command's status, or minus the signal that killed it."""
    process = start(arguments, prepare)
    process.join(240)
    return process.exitcode
