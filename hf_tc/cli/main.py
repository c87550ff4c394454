# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The command `hf-tc`: one file per subcommand beside this one, each a thin layer over the Python interface."""

import argparse
import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

# What goes wrong outside this program: options, files, the network, missing packages, memory.
EXPECTED_ERRORS = (ValueError, OSError, ImportError, RuntimeError)
TRACEBACK = "HF_TC_TRACEBACK"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class OneLineParser(argparse.ArgumentParser):
    """Its errors are one line, as all others; argparse puts the whole usage before them.

    Attributes:
        complete: where it takes seconds to know the options: adds them, when they are needed, and gives the words to
            parse for those that were given.
        check: calls `error` for what was parsed and cannot be.
    """

    complete: Callable[[list[str]], list[str]] | None = None
    check: Callable[[argparse.Namespace], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.complete is not None and args is not None:
            args = self.complete(list(args))
        parsed = super().parse_known_args(args, namespace)
        if self.check is not None:
            self.check(parsed[0])
        if parsed[1]:  # here, so that a command is named by its own parser
            self.error(f"unrecognized arguments: {' '.join(parsed[1])}")
        return parsed

    def format_help(self) -> str:
        if self.complete is not None:
            self.complete([])
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (usage: {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; errors of the user's making, and missing packages, are one line on stderr and exit status 2.

    With HF_TC_TRACEBACK=1 in the environment they are raised, with their traceback.
    """
    # Read when torch is loaded. By default torch's CPU threads spin, at every operation, while one of them has lost its
    # core to another program: where that had one of two cores, alignment ran 10 to 30 times slower. It is the
    # environment of the whole process, and so the command's to set, not the package's.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _keep_freed_memory()
    try:
        options = build_parser().parse_args(arguments)
        # Only now, since help and wrong options need none of it.
        import torch
        from huggingface_hub.errors import HTTPError, StrictDataclassError
        from safetensors import SafetensorError
        from transformers.utils import logging

        from hf_tc.cli.shared import console
        from hf_tc.hub.registration import register

        register()
    except ModuleNotFoundError as error:  # of what every command needs, perhaps the package that prints errors
        if os.environ.get(TRACEBACK) == "1":
            raise
        print(f"hf-tc: {_in_words(error)}", file=sys.stderr)
        return 2
    if getattr(options, "json", False):
        logging.set_verbosity_error()
    try:
        # Whatever a library prints goes to stderr: with --json, stdout is for the result alone.
        with contextlib.redirect_stdout(sys.stderr):
            result = options.run(options)
    except (*EXPECTED_ERRORS, SafetensorError, StrictDataclassError, HTTPError) as error:
        if os.environ.get(TRACEBACK) == "1":
            raise
        # Most errors of this kind are the library's own: they say what failed, not what asked for it.
        internal = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
        no_answer = isinstance(error, HTTPError) and getattr(error, "response", None) is None
        hint = f"({TRACEBACK}=1 shows where.)" if internal else ""
        words = f"the Hub cannot be reached ({error})." if no_answer else _in_words(error)
        message = " ".join(f"hf-tc {options.command}: {words} {hint}".split())
        console.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    if result is not None:
        print(json.dumps(result))
    return 0


def _keep_freed_memory() -> None:
    """Has glibc keep up to 1 GB of what is freed for what is asked for next, in pieces of up to 32 MB.

    By default it gives tens of megabytes back after every step of a fit, and the kernel clears them again for the next:
    an eighth of the CPU time of `hf-tc demo`. As above, this is for the whole process, and what the user set stays.
    """
    is_set = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if not is_set and sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that glibc itself would come to
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def _in_words(error: BaseException) -> str:
    """The error's message; for a package that is not installed, how to install it."""
    while isinstance(error, ModuleNotFoundError) and error.name is None and error.__cause__ is not None:
        error = error.__cause__  # Transformers' lazy imports do not say which package is missing
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package in ("", "hf_tc"):
        return str(error)
    return f"this needs the package {package}, which is not installed: pip install {package}"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Raises `ModuleNotFoundError` where a package that they need is not installed."""
    from hf_tc.cli import cache_teacher, convert, demo, distill, evaluate, export, push, refresh, sample, select, serve

    parser = OneLineParser(
        "hf-tc",
        description="Turn Transformer language models into hybrids.",
        epilog=f"{TRACEBACK}=1 in the environment: errors with their traceback instead of one line",
    )
    parser.add_argument("--version", action="version", version=f"hf_tc {version('hf_tc')}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (demo, sample, select, convert, cache_teacher, distill, evaluate, export, push, serve, refresh):
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
