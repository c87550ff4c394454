# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""All tables of real teachers at once: which runs there are, where they run, and what becomes of those that fail."""

import json
import sys
from collections import Counter
from pathlib import Path
from threading import Barrier, Lock
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks import real_teacher, real_teacher_tables, reference_baseline

TEXTS = ["wiki-test.txt", "books-test.txt"]
ROW = {"wiki-test x": 1.1, "books-test x": 1.2, "KL": 0.1, "second copy +": 0.0, "seconds": 3.0}
TASKS = {"lambada_openai_test": 0.8, "arc": 0.9, "piqa": 1.0}


def words(folder: Path, *further: Any) -> list[str]:
    given = ["--teachers", "smol", "qwen", "--large", "big", "--wiki", "wiki.txt", "--books", "books.txt"]
    return ["tables", *given, "--texts", *TEXTS, "--folder", str(folder), *map(str, further)]


def test_every_run_is_a_command_line_of_real_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", words(tmp_path))
    options = real_teacher_tables.parse()
    runs = real_teacher_tables.runs_of(options.teachers, options.large, options.wiki, options.books)
    assert max(Counter(run.name for run in runs).values()) == 1
    for run in runs:
        assert sum(run.data.values()) == 1
        monkeypatch.setattr(sys, "argv", ["real_teacher", *run.words(options)])
        parsed = real_teacher.parse()
        assert (parsed.retain, parsed.seeds, parsed.calibration_tokens) == ([run.share], [run.seed], run.tokens)
        assert parsed.out.parent == parsed.students.parent == tmp_path
        steps = (0, 0) if run.name == "closed-form" else (1200, 600 if run.teacher.name == "big" else None)
        assert (parsed.alignment_steps, parsed.joint_steps) == steps
        assert parsed.layer_policy == options.layer_policy == "restore"


def test_gpus_share_the_runs_and_what_is_there_or_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    busy, most, lock, all_places = Counter[str](), Counter[str](), Lock(), Barrier(4)

    def run(command: list[str], *, env: dict[str, str], **options: Any) -> None:
        gpu, out = env["CUDA_VISIBLE_DEVICES"], Path(command[command.index("--out") + 1])
        with lock:
            busy[gpu] += 1
            most[gpu] = max(most[gpu], busy[gpu])
        if "65536" in out.name and "mixed" not in out.name:  # the first four runs wait for one another
            all_places.wait(timeout=20)
        if "262144" not in out.name:
            tasks = {name: x for task, share in TASKS.items() for name, x in ((task, share), (f"{task} ±", 0.01))}
            out.write_text(json.dumps({"rows": [ROW | tasks]}))
        with lock:
            busy[gpu] -= 1

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr(real_teacher_tables, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(sys, "argv", words(tmp_path, "--only", "text", "--jobs", 2))
    with pytest.raises(SystemExit, match=r"2 of 10 runs failed, see .*: text-sampled-262144, text-mixed-262144"):
        real_teacher_tables.main()
    assert most == {"4": 2, "6": 2}
    rows = json.loads((tmp_path / "tables.json").read_text())["rows"]
    assert len(rows) == 8
    assert rows[0]["run"] == "text-packaged-65536"
    figures = {"WikiText-2 x": 1.1, "books x": 1.2, "LAMBADA": 0.8, "other tasks": pytest.approx(0.95), "peak GB": ""}
    assert rows[0] == rows[0] | figures
    assert "| text-half-65536 | 1.100 | 0.1 | 1.200 |" in capsys.readouterr().out

    monkeypatch.setattr(real_teacher_tables, "subprocess", None)  # what is there is not made again
    monkeypatch.setattr(sys, "argv", words(tmp_path, "--only", "65536"))
    real_teacher_tables.main()
    monkeypatch.setattr(sys, "argv", words(tmp_path, "--only", "65536", "--tasks", "other.jsonl"))
    with pytest.raises(SystemExit, match=r"text-packaged-65536\.command is of another command line"):
        real_teacher_tables.main()


def test_the_reference_is_compared_on_the_layers_of_the_first_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(
        real_teacher_tables, "subprocess", SimpleNamespace(run=lambda command, check: commands.append(command))
    )
    monkeypatch.setattr(sys, "argv", words(tmp_path, "--only", "reference"))
    with pytest.raises(SystemExit, match=r"takes its layers from .*smol-share0\.25\.json, which is not there"):
        real_teacher_tables.main()
    (tmp_path / "smol-share0.25.json").write_text(json.dumps({"rows": [{"retained": [0, 7, 23]}]}))
    real_teacher_tables.main()
    ((_, _, module, *given),) = commands
    assert module == "tests.benchmarks.reference_baseline"
    monkeypatch.setattr(sys, "argv", ["reference_baseline", *given])
    parsed = reference_baseline.parse()
    assert (parsed.retained, parsed.paper_steps, parsed.speed_tokens) == ([0, 7, 23], 0, [])
    assert parsed.out == tmp_path / "reference.json"


def test_without_a_gpu_there_is_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for count, names in ((0, [""]), (2, ["0", "1"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert real_teacher_tables.gpus() == names
