# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student and its teacher in vLLM on a GPU, end to end, against Transformers there; exits with 1 if a part failed.

    python tests/serving/gpu_engine.py --teacher DIR --student DIR --text FILE [--lengths 256 2048 32768] [--ranks 2]

Tokens: what vLLM writes greedily after 32 prompts of 1 to 600 tokens, against `generate` in the same dtype: eagerly and
compiled with CUDA graphs, prompts read in chunks of 512 tokens beside sequences that decode. Where the two part, the
margin is by how many nats Transformers prefers its own token; near ties are common in bfloat16. vLLM's recurrent
kernels do not take float32.

Distance: as `tests/benchmarks/serving_distance.py`, of a text that is read.

Speed: up to 128 requests at once that are so many tokens long in the end; reading is timed alone, with one token
written, and writing is what the rest takes longer. Cache bytes a token are by vLLM's own plan of its cache.

Each engine has a process of its own, several side by side where nothing is timed. Where one fails the others go on.
Results are in the folder --out: a JSON file a table, and `engines.json`, which has all tokens and errors.
"""

import argparse
import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

os.environ.update(  # what vLLM reads where it is imported
    {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        **os.environ,
    }
)
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine_parts import CROWDED, NEW, ROOMY, WRITTEN, InTransformers, Job, cut, run

from tests.benchmarks.bench import Results
from tests.benchmarks.serving_distance import DIFFERENCES

CHECKED, TIMED = ("tokens", "distance"), ("tokens", "distance", "speed")
CACHED, READ_ANEW = {"enable_prefix_caching": True, "mamba_cache_mode": "align"}, {"enable_prefix_caching": False}
SIDE_BY_SIDE = [
    Job("Transformers", "student", "bfloat16", CHECKED),
    Job("Transformers", "student", "float16", CHECKED),
    Job("Transformers", "teacher", "bfloat16", CHECKED),
    Job("vLLM", "student", "bfloat16", CHECKED, {**CROWDED, **CACHED, "enforce_eager": True}),
    Job("vLLM", "student", "float16", CHECKED, {**CROWDED, **READ_ANEW}),
]
ALONE = [Job("vLLM", model, "bfloat16", TIMED, {**ROOMY, **READ_ANEW}) for model in ("student", "teacher")]
TOKENS = ["engine", "prompts", "equal", "of each other: tokens of the prompt, equal ones after it, margin"]
DISTANCE = ["dtype", *DIFFERENCES]
SPEED = ["model", "length", "requests", "requests/s", "tokens/s", "read, tokens/s", "written, tokens/s"]
SPEED += ["cache bytes a token", "seconds to start"]


class Outcomes:
    """What each job gave, by its name, in a file from the moment it is known; and what failed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.texts = options, cut(options.text, options.student, options.lengths)
        self.of_jobs: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, str] = {}

    def work(self, jobs: list[Job]) -> None:
        """Side by side. A process that dies takes no other with it."""
        context = multiprocessing.get_context("spawn")
        pools = [ProcessPoolExecutor(1, context) for _ in jobs]
        folders = {"student": self.options.student, "teacher": self.options.teacher}
        futures = [
            pool.submit(run, job, folders[job.model], self.texts, self.options.ranks)
            for pool, job in zip(pools, jobs, strict=True)
        ]
        for pool, job, future in zip(pools, jobs, futures, strict=True):
            with self.reporting(job.name):
                self.of_jobs[job.name], errors = future.result()
                self.errors |= {f"{job.name}: {part}": error for part, error in errors.items()}
            pool.shutdown()
            content = {"jobs": self.of_jobs, "errors": self.errors}
            (self.options.out / "engines.json").write_text(json.dumps(content))
            print(f"{job.name}: {', '.join(self.of_jobs.get(job.name, {})) or 'nothing'}", flush=True)

    @contextmanager
    def reporting(self, name: str) -> Iterator[None]:
        """What fails in the block is kept, and does not end the program."""
        try:
            yield
        except Exception:
            self.errors[name] = traceback.format_exc()

    def part(self, job: Job | str, part: str) -> Any:
        return self.of_jobs.get(job if isinstance(job, str) else job.name, {}).get(part)


def main() -> int:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    outcomes = Outcomes(options)
    outcomes.work(SIDE_BY_SIDE)
    for job in ALONE:
        outcomes.work([job])
    for report in (report_tokens, report_distances, report_speed):
        with outcomes.reporting(report.__name__):
            report(outcomes, options.out)
    for name, error in outcomes.errors.items():
        print(f"\nFAILED {name}\n{error}")
    return int(bool(outcomes.errors))


def report_tokens(outcomes: Outcomes, folder: Path) -> None:
    results = Results(folder / "tokens.json", TOKENS, benchmark="gpu_engine")
    results.heading(f"The {NEW} likeliest tokens after each prompt, against generate")
    for job in (job for job in SIDE_BY_SIDE + ALONE if job.engine == "vLLM"):
        reference = job._replace(engine="Transformers", settings={})
        written, expected = outcomes.part(job, "tokens"), outcomes.part(reference, "tokens")
        if written is None or expected is None:
            continue
        model = outcomes.options.student if job.model == "student" else outcomes.options.teacher
        margins = InTransformers(model, job.dtype, outcomes.texts).margins(expected, written)
        parted = "; ".join(f"{prompt}, {same}, {margin:.3f}" for prompt, same, margin in margins)
        results.add(**dict(zip(TOKENS, (job.name, len(written), len(written) - len(margins), parted), strict=True)))


def report_distances(outcomes: Outcomes, folder: Path) -> None:
    results = Results(folder / "distance.json", DISTANCE, benchmark="gpu_engine")
    results.heading("Mean |difference| of log probabilities, nats a token of the text")
    jobs = {"vllm": "vLLM", "transformers": "Transformers"}
    for dtype in ("bfloat16", "float16"):
        row = {}
        for name, sides in DIFFERENCES.items():
            scores = [outcomes.part(f"{jobs[engine]}, {model}, {dtype}", "distance") for engine, model in sides]
            if None not in scores:
                row[name] = (torch.tensor(scores[0]) - torch.tensor(scores[1])).abs().mean().item()
        results.add(dtype=dtype, **row)


def report_speed(outcomes: Outcomes, folder: Path) -> None:
    results = Results(folder / "speed.json", SPEED, benchmark="gpu_engine")
    results.heading(f"bfloat16, {WRITTEN} tokens written a request")
    for job in ALONE:
        for row in outcomes.part(job, "speed") or []:
            results.add(model=job.model, **row)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 2048, 32768], help="of what is timed")
    parser.add_argument("--ranks", type=int, default=1, help="GPUs that an engine is divided over")
    parser.add_argument("--out", type=Path, default=Path("gpu_engine"))
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
