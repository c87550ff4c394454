# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Requests and tokens a second over HTTP: vLLM and Transformers' server, a student and its teacher, at growing lengths.

    python -m tests.benchmarks.serving --teacher DIR --student DIR --text FILE [--lengths 256 2048]

Run it where vLLM and hf_tc are installed together; `.ci/serving` makes such an environment for a CPU. One server at a
time, the same requests to each: prompts cut from the text, so many tokens long that with what is written they are as
long as the row says, sent by several clients at once. A first round warms the server up and is not counted. Cache bytes
a token are what vLLM's own plan gives to one sequence of that length. Both servers compute in the dtype of --dtype.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from transformers import AutoTokenizer

from .bench import Results, parser_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "testing"))

from servers import free_port, wait_until_it_answers

COLUMNS = ["server", "model", "length", "requests", "requests/s", "tokens/s", "CPU s a request", "cache bytes a token"]
PROGRAMS = {
    "vllm": [str(Path(sys.executable).with_name("vllm")), "serve"],
    "transformers": [sys.executable, "-m", "hf_tc.cli.main", "serve"],
    "transformers, teacher": [str(Path(sys.executable).with_name("transformers")), "serve"],
}
OPTIONS: dict[str, dict[str, Any]] = {"vllm": {"ignore_eos": True}, "transformers": {}}  # which knows no such option
CONCURRENCY = re.compile(r"Maximum concurrency for [\d,]+ tokens per request: ([\d,.]+)x")


def main() -> None:
    options = parse()
    results = Results(options.out, COLUMNS, benchmark="serving", dtype=options.dtype, clients=options.clients)
    results.heading(
        f"{results.content['machine']}, {options.dtype}, {options.clients} clients, {options.new} tokens written"
    )
    for length in options.lengths:
        prompts = cut(options.text, options.student, length - options.new, options.requests)
        for model, folder in {"student": options.student, "teacher": options.teacher}.items():
            for server in ("vllm", "transformers"):
                with serving(server, model, folder, length, options) as (url, log, process):
                    row = load(url, process, folder, prompts, options, **OPTIONS[server])
                    if server == "vllm":
                        row["cache bytes a token"] = round(cache_bytes(log, options.cache_gib) / length)
                results.add(server=server, model=model, length=length, **row)


def cut(text: Path, tokenizer: str, tokens: int, count: int) -> list[str]:
    """Prompts of so many tokens each, one after another of the text."""
    encoder = AutoTokenizer.from_pretrained(tokenizer)
    ids = encoder(text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    if len(ids) < tokens * count:
        raise ValueError(f"{text} has {len(ids)} tokens; {count} prompts of {tokens} need {tokens * count}.")
    return [encoder.decode(ids[start : start + tokens]) for start in range(0, tokens * count, tokens)]


@contextmanager
def serving(
    server: str, model: str, folder: str, length: int, options: argparse.Namespace
) -> Iterator[tuple[str, Path, psutil.Process]]:
    """Address, log and process of a server, until the block ends."""
    port, own = free_port(), {"VLLM_CPU_KVCACHE_SPACE": str(options.cache_gib), "HF_HUB_OFFLINE": "1"}
    program = PROGRAMS["transformers, teacher" if (server, model) == ("transformers", "teacher") else server]
    arguments = [folder, "--host", "127.0.0.1", "--port", str(port), "--dtype", options.dtype]
    if server == "vllm":
        # Room for what a tokenizer may make of a text that was cut between two of its tokens.
        arguments += ["--max-model-len", str(length + 64), "--no-enable-prefix-caching"]
    else:
        arguments += ["--device", options.device]
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen([*program, *arguments], env={**os.environ, **own}, stdout=output, stderr=output)
        try:
            wait_until_it_answers(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}", log, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)


def load(
    url: str, server: psutil.Process, model: str, prompts: list[str], options: argparse.Namespace, **further: Any
) -> dict[str, Any]:
    """Requests and written tokens a second, asked for by `clients` threads. `further`: of each request."""

    def ask(prompt: str) -> int:
        answer = complete(url, model=model, prompt=prompt, max_tokens=options.new, **further)
        return int(answer["usage"]["completion_tokens"])

    with ThreadPoolExecutor(options.clients) as pool:
        list(pool.map(ask, prompts[: options.clients]))
        start, busy = time.perf_counter(), cpu_seconds(server)
        written = sum(pool.map(ask, prompts))
        seconds = time.perf_counter() - start
    row = {"requests": len(prompts), "requests/s": len(prompts) / seconds, "tokens/s": written / seconds}
    return {**row, "CPU s a request": (cpu_seconds(server) - busy) / len(prompts)}


def complete(url: str, **request: Any) -> dict[str, Any]:
    """What a server answers to a request for the likeliest continuation."""
    body = json.dumps({"temperature": 0, **request}).encode()
    message = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(message, timeout=1200) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def cpu_seconds(server: psutil.Process) -> float:
    """Of the server and what it started; unlike the clock's they hardly depend on what else the machine does."""
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)


def cache_bytes(log: Path, cache_gib: int) -> float:
    """Of one sequence of the longest length, by what vLLM says of how many fit."""
    (concurrency,) = CONCURRENCY.findall(log.read_text())
    return cache_gib * 2**30 / float(concurrency.replace(",", ""))


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="serving.json")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--new", type=int, default=32, help="tokens written a request")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cache-gib", type=int, default=2, help="memory of vLLM's caches on a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
