# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Python processes that have imported neither Transformers nor hf_tc, forked from one that has torch.

Importing torch, and what Transformers imports of it and of others, is most of what a new process would do: two seconds
each instead of seven. Environment variables that torch itself reads must be set for a real process.

multiprocessing has one fork server a process, and that of `killed_commands` has imported hf_tc.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

# By torch, Transformers and its dependencies; none of them imports Transformers or huggingface_hub.
SLOW_TO_IMPORT = ("torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "torch._inductor")
SLOW_TO_IMPORT += ("sympy", "scipy.optimize", "torchao.prototype.safetensors.safetensors_support")
SCRIPT = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"


def run_side_by_side(
    code: str, arguments: list[str], environments: list[dict[str, str]], folder: Path | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """The same code in as many processes as there are environments, each on top of this one's; stdin is closed.

    When one of them fails, the others are killed, which may be waiting for it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        commands = [
            {
                "code": code,
                "arguments": arguments,
                "environment": {**os.environ, "OMP_NUM_THREADS": "1", **environment},
                "folder": str(folder or Path.cwd()),
                "outputs": [str(Path(scratch) / f"{name}{index}") for name in ("stdout", "stderr")],
            }
            for index, environment in enumerate(environments)
        ]
        return [
            subprocess.CompletedProcess(arguments, status, *(Path(path).read_text() for path in command["outputs"]))
            for command, status in zip(commands, _ask(commands), strict=True)
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


def _ask(commands: list[dict[str, Any]]) -> list[int]:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        print(json.dumps(commands), file=server.stdin, flush=True)
        return json.loads(server.stdout.readline())
    except BaseException:  # the time limit of a test too
        os.killpg(server.pid, signal.SIGKILL)
        _server.cache_clear()
        raise


@cache
def _server() -> subprocess.Popen[str]:
    """It ends with this process, which closes its stdin."""
    return subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def _serve() -> None:
    sys.path[0] = ""  # as for `python -c`
    for name in SLOW_TO_IMPORT:
        with contextlib.suppress(ImportError):
            import_module(name)
    assert not {"transformers", "huggingface_hub"} & sys.modules.keys()
    for line in sys.stdin:
        running = {}
        for index, command in enumerate(json.loads(line)):
            child = os.fork()
            if not child:
                _become(**command)
            running[child] = index
        statuses = {}
        while running:
            child, status = os.wait()
            statuses[running.pop(child)] = os.waitstatus_to_exitcode(status)
            if status:
                for other in running:
                    os.kill(other, signal.SIGKILL)
        print(json.dumps([statuses[index] for index in sorted(statuses)]), flush=True)


def _become(code: str, arguments: list[str], environment: dict[str, str], folder: str, outputs: list[str]) -> NoReturn:
    for number, path in enumerate((os.devnull, *outputs)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    status = 1
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["-c", *arguments]
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), sys.modules["__main__"].__dict__)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
