# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""lm-eval's `hf` backend scores a student on a local task, one row at a time and batched alike."""

import json
from pathlib import Path
from typing import Any

import pytest
from optional_packages import needs_extra
from student_folders import letter_tokenizer, run_python, save_student, tiny_student

pytestmark = needs_extra("eval", "lm_eval")
TASKS = {
    "tiny_choice": """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc}}]
""",
    "tiny_perplexity": """
task: tiny_perplexity
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
""",
}
DOCUMENTS = [
    {"text": "The lamp was out", "choices": [" again.", " and nobody knew why it was so."], "label": 0},
    {"text": "A", "choices": ["b", "Z and a much longer ending than the other one, by far."], "label": 1},
    {"text": "Where the road ends the sea begins, and where the sea ends", "choices": [" land", " rain."], "label": 0},
    {"text": "One, two: three. Four", "choices": [", five", "?"], "label": 1},
    {"text": "It rained all day long and the keeper slept.", "choices": [" Then", " Now he"], "label": 1},
]
EVALUATE = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
folder, tasks, output, trust = sys.argv[1:5]
manager = TaskManager(include_path=tasks, include_defaults=False)
answers = {}
for batch_size in (1, 4):
    result = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": folder, "trust_remote_code": trust == "True", "dtype": "float32"},
        tasks=["tiny_choice", "tiny_perplexity"], task_manager=manager, batch_size=batch_size, device="cpu",
        bootstrap_iters=0, random_seed=0,
    )
    samples = {task: [s["filtered_resps"] for s in sorted(rows, key=lambda s: s["doc_id"])]
               for task, rows in result["samples"].items()}
    answers[batch_size] = {"results": result["results"], "samples": samples}
json.dump(answers, open(output, "w"), default=str)
"""


def numbers(item: Any) -> list[float]:
    if isinstance(item, dict):
        item = list(item.values())
    if isinstance(item, list):
        return [number for part in item for number in numbers(part)]
    return [float(item)] if isinstance(item, int | float) and not isinstance(item, bool) else []


@pytest.mark.parametrize("with_hf_tc", [True, False])
def test_batched_scores_equal_single_ones(tmp_path: Path, with_hf_tc: bool) -> None:
    save_student(tiny_student(), tmp_path / "student", letter_tokenizer())
    data, tasks = tmp_path / "documents.jsonl", tmp_path / "tasks"
    data.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS))
    tasks.mkdir()
    for name, text in TASKS.items():
        (tasks / f"{name}.yaml").write_text(text.format(data=data))
    output = tmp_path / "scores.json"
    result = run_python(
        EVALUATE, tmp_path / "student", tasks, output, str(not with_hf_tc), with_hf_tc=with_hf_tc, HF_HOME=str(tmp_path)
    )
    assert result.returncode == 0, result.stderr[-3000:]
    single, batched = json.loads(output.read_text()).values()
    scores = numbers(single["samples"])
    assert len(scores) >= 3 * len(DOCUMENTS)
    assert len(set(scores)) > 2 * len(DOCUMENTS)
    assert numbers(batched["samples"]) == pytest.approx(scores, abs=1e-3)
    assert batched["results"]["tiny_choice"]["acc,none"] == single["results"]["tiny_choice"]["acc,none"]
