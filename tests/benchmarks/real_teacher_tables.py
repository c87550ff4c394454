# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The tables of real teachers by share, seed and text: `real_teacher` for every student, side by side on all GPUs.

    python -m tests.benchmarks.real_teacher_tables --teachers SMOLLM2 QWEN GEMMA --large QWEN_1.5B \
        --wiki wikitext2-train.txt --books books-train.txt --texts wikitext2-test.txt books-test.txt \
        --tasks lambada_openai_test.jsonl ... [--jobs 2] [--only seed text] [--folder real_teachers]

Every teacher at a quarter and a half, the large ones at a quarter with fewer joint steps, on encyclopedic text and
books; of the first one also three seeds, a closed form alone, five kinds of text at 65,536 tokens, three at 262,144,
two at 1,048,576, and 16,384 tokens for the curve; at the end its layers against the public reference's, by
`reference_baseline`. The folder gets a JSON file, a log, the command line and the students of each run; a run whose
file is there is not made again, and one with another command line is refused. Seconds are right with --jobs 1 alone.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hf_tc.assets import sample_text_path
from hf_tc.config import DEFAULT_POLICY, LAYER_POLICIES

from .bench import Results, parser_of

LAMBADA = "lambada_openai_test"
LARGE_JOINT_STEPS = 600  # more bring a larger teacher no further
REFERENCE = "reference"
COLUMNS = ["run", "WikiText-2 x", "KL", "books x", "second copy +", "LAMBADA", "other tasks", "seconds", "peak GB"]
Data = dict[str, float]


class Run(NamedTuple):
    """A student to make and to measure."""

    name: str
    teacher: Path
    data: Data
    share: float = 0.25
    seed: int = 0
    tokens: int = 262_144
    steps: dict[str, int] = {}  # where they are not the defaults: options of `real_teacher`

    def words(self, options: argparse.Namespace) -> list[str]:
        """The command line of `real_teacher`."""
        folder = options.folder
        given = {
            "--teacher": [self.teacher],
            "--data": [f"{source}={share:g}" for source, share in self.data.items()],
            "--texts": options.texts,
            "--tasks": options.tasks,
            "--retain": [self.share],
            "--seeds": [self.seed],
            "--calibration-tokens": [self.tokens],
            "--layer-policy": [options.layer_policy],
            **{option: [steps] for option, steps in self.steps.items()},
            "--students": [folder / self.name],
            "--out": [folder / f"{self.name}.json"],
        }
        return words_of(given)


def words_of(given: dict[str, list[Any]]) -> list[str]:
    """Options and their values as a command line."""
    return [str(word) for option, values in given.items() for word in (option, *values)]


def runs_of(teachers: list[Path], large: list[Path], wiki: str, books: str) -> list[Run]:
    packaged = str(sample_text_path("calibration"))
    real, mixed = {wiki: 0.5, books: 0.5}, {wiki: 0.25, books: 0.25, "sampled": 0.5}
    found = [Run(f"{x.name}-share{share:g}", x, real, share) for x in teachers for share in (0.25, 0.5)]
    found += [Run(f"{x.name}-share0.25", x, real, steps={"--joint-steps": LARGE_JOINT_STEPS}) for x in large]
    first = teachers[0]
    found += [Run(f"seed{seed}", first, real, seed=seed) for seed in (1, 2)]
    found += [Run("closed-form", first, real, steps={"--alignment-steps": 0, "--joint-steps": 0})]
    texts: dict[str, Data] = {
        "packaged": {packaged: 1},
        "sampled": {"sampled": 1},
        "half": {packaged: 0.5, "sampled": 0.5},
        "mixed": mixed,
        "real": real,
    }
    found += [Run(f"text-{name}-65536", first, data, tokens=65_536) for name, data in texts.items()]
    found += [Run(f"text-{name}-262144", first, texts[name]) for name in ("sampled", "mixed")]
    found += [Run(f"text-{name}-1048576", first, texts[name], tokens=1_048_576) for name in ("mixed", "real")]
    return [*found, Run("text-mixed-16384", first, mixed, tokens=16_384)]


def main() -> None:
    options = parse()
    runs = runs_of(options.teachers, options.large, options.wiki, options.books)
    runs = [run for run in runs if is_asked_for(run.name, options)]
    options.folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        check_command(run, options)
    places: queue.SimpleQueue[str] = queue.SimpleQueue()
    for gpu in options.jobs * gpus():
        places.put(gpu)
    results = Results(options.folder / options.out, COLUMNS, benchmark="real_teacher_tables")
    results.heading(f"{results.content['machine']}, of the teacher's, {options.jobs} at a time on a GPU")
    with ThreadPoolExecutor(places.qsize()) as workers:
        made = list(workers.map(lambda run: is_made(run, places, options), runs))
    for run, is_there in zip(runs, made, strict=True):
        if is_there:
            results.add(run=run.name, **row_of(options.folder / f"{run.name}.json", options.texts))
    if failed := [run.name for run, is_there in zip(runs, made, strict=True) if not is_there]:
        sys.exit(f"{len(failed)} of {len(runs)} runs failed, see their logs in {options.folder}: {', '.join(failed)}")
    if is_asked_for(REFERENCE, options):
        compare_with_reference(options)


def gpus() -> list[str]:
    """What this process sees, by the names that a child knows them by; one place without a GPU."""
    inherited = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = inherited.split(",") if inherited else map(str, range(torch.cuda.device_count()))
    return list(names) or [""]


def check_command(run: Run, options: argparse.Namespace) -> None:
    """Ends the program where the folder has a run of that name by another command line; keeps this one there."""
    file, command = options.folder / f"{run.name}.command", " ".join(run.words(options))
    if file.exists() and file.read_text() != command:
        sys.exit(f"{file} is of another command line: {file.read_text()}. Take another --folder, or remove it.")
    file.write_text(command)


def is_made(run: Run, places: "queue.SimpleQueue[str]", options: argparse.Namespace) -> bool:
    """Makes a run, unless it is there, on the first GPU with room; whether its file is there afterwards."""
    file = options.folder / f"{run.name}.json"
    if not file.exists():
        gpu = places.get()
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
        command = [sys.executable, "-m", "tests.benchmarks.real_teacher", *run.words(options)]
        try:
            with (options.folder / f"{run.name}.log").open("w") as log:
                subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
        finally:
            places.put(gpu)
    return bool(file.exists())


def is_asked_for(name: str, options: argparse.Namespace) -> bool:
    return any(part in name for part in options.only)


def compare_with_reference(options: argparse.Namespace) -> None:
    """Has `reference_baseline` print its table: the first teacher, with the layers that its first student retains."""
    file = options.folder / f"{options.teachers[0].name}-share0.25.json"
    if not file.exists():
        sys.exit(f"{REFERENCE} takes its layers from {file}, which is not there. Make that run, too.")
    (row,) = json.loads(file.read_text())["rows"]
    given = {
        "--teacher": [options.teachers[0]],
        "--retained": row["retained"],
        "--calibration": [options.wiki, options.books],
        "--validation": [options.texts[0]],
        "--paper-steps": [0],
        "--speed-tokens": [],
        "--out": [options.folder / f"{REFERENCE}.json"],
    }
    subprocess.run([sys.executable, "-m", "tests.benchmarks.reference_baseline", *words_of(given)], check=True)


def row_of(file: Path, texts: list[str]) -> dict[str, Any]:
    """A row of the table from what `real_teacher` wrote."""
    (row,) = json.loads(file.read_text())["rows"]
    tasks = [name.removesuffix(" ±") for name in row if name.endswith(" ±")]
    others = [row[task] for task in tasks if task != LAMBADA]
    wiki, books = (row[f"{Path(text).stem} x"] for text in texts)
    return {
        "WikiText-2 x": wiki,
        "books x": books,
        "LAMBADA": row.get(LAMBADA, ""),
        "other tasks": sum(others) / len(others) if others else "",
        **{name: row.get(name, "") for name in ("KL", "second copy +", "seconds", "peak GB")},
    }


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="tables.json")
    parser.add_argument("--teachers", type=Path, nargs="+", required=True, help="folders; the first has all runs")
    parser.add_argument("--large", type=Path, nargs="*", default=[], help="folders of teachers with a quarter alone")
    parser.add_argument("--wiki", required=True, help="encyclopedic text to calibrate on")
    parser.add_argument("--books", required=True, help="books to calibrate on")
    parser.add_argument("--texts", nargs=2, required=True, help="encyclopedic text and books to measure on")
    parser.add_argument("--tasks", nargs="*", default=[])
    parser.add_argument("--layer-policy", choices=LAYER_POLICIES, default=DEFAULT_POLICY)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of the runs to make")
    parser.add_argument("--jobs", type=int, default=2, help="at a time on a GPU")
    parser.add_argument("--folder", type=Path, default=Path("real_teachers"))
    options = parser.parse_args()
    teachers = [*options.teachers, *options.large]
    if len({teacher.name for teacher in teachers}) < len(teachers):
        parser.error("Two teachers have one name, and runs are named after them.")
    return options


if __name__ == "__main__":
    main()
