# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Python processes that have imported neither Transformers nor hf_tc, forked from one that has torch.

Importing torch, and what Transformers imports of it and of others, is most of what a new process would do: two seconds
each instead of seven. Environment variables that torch itself reads must be set for a real process.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType

# By torch, Transformers and its dependencies; none of them imports Transformers or huggingface_hub.
SLOW_TO_IMPORT = ("torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "torch._inductor")
SLOW_TO_IMPORT += ("sympy", "scipy.optimize", "torchao.prototype.safetensors.safetensors_support")
SCRIPT = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
LONGEST = 300  # seconds

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([*SLOW_TO_IMPORT])


def run_side_by_side(
    code: str, arguments: list[str], environments: list[dict[str, str]], folder: Path | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """The same code in as many processes as there are environments, each on top of this one's; stdin is closed.

    When one of them fails, the others are killed, which may be waiting for it.

    Raises:
        TimeoutError: they take longer than LONGEST.
    """
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [[Path(scratch) / f"{name}{index}" for name in ("out", "err")] for index in range(len(environments))]
        common = {**os.environ, "OMP_NUM_THREADS": "1"}
        running = [
            processes.Process(target=_become, args=(code, arguments, common | environment, folder or Path.cwd(), paths))
            for environment, paths in zip(environments, outputs, strict=True)
        ]
        for process in running:
            process.start()
        _wait_for_all(running)
        return [
            subprocess.CompletedProcess(arguments, process.exitcode, *(path.read_text() for path in paths))
            for process, paths in zip(running, outputs, strict=True)
        ]


def run_code(
    code: str, *arguments: str | Path, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """As `python -c code arguments` does."""
    return run_side_by_side(code, [str(argument) for argument in arguments], [environment], folder)[0]


def run_script(
    path: Path, *arguments: str | Path, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """As `python path arguments` does."""
    return run_code(SCRIPT, path, *arguments, folder=folder, **environment)


def _wait_for_all(running: list) -> None:
    until = time.monotonic() + LONGEST
    try:
        while (left := [process for process in running if process.exitcode is None]) and not any(
            process.exitcode for process in running
        ):
            if not wait([process.sentinel for process in left], until - time.monotonic()):
                raise TimeoutError(f"A process took longer than {LONGEST} seconds.")
    finally:
        for process in running:
            process.kill()
            process.join()


def _become(
    code: str, arguments: list[str], environment: dict[str, str], folder: Path, outputs: tuple[Path, Path]
) -> None:
    for number, path in enumerate((os.devnull, *outputs)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    assert not {"transformers", "huggingface_hub", "hf_tc"} & sys.modules.keys()
    sys.argv, sys.path[:] = ["-c", *arguments], ["", *environment.get("PYTHONPATH", "").split(os.pathsep), *sys.path]
    main = sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), main.__dict__)
