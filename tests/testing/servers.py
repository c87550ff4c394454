# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Server processes on loopback: a port for one, and waiting until it answers."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Returns once `url`/health answers; fails with the end of the log if the process ends before."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(f"no server: {log.read_text()[-3000:]}")
