# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Students of a real language model, by share and seed: what they keep of it in text, in recall and in tasks.

    python -m tests.benchmarks.real_teacher --teacher DIR --data wiki.txt=0.25 books.txt=0.25 sampled=0.5 \
        --texts wiki-test.txt books-test.txt --tasks lambada_openai_test.jsonl arc_easy_test.jsonl ... \
        [--retain 0.25 0.5] [--seeds 0 1 2] [--students DIR]

Perplexities are over 32 x 1,024 tokens of each text, tasks over all rows; needs the extra `eval`. A student is saved as
soon as it is made, with its card, which has what the first text, recall, tasks and greedy answers gave; one that is
there already is loaded, so give students of other settings another folder. --retain also takes layers, as 0,1,16.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hf_tc import HybridGDNForCausalLM
from hf_tc.config import ConversionConfig
from hf_tc.data.mixture import data_of_words
from hf_tc.evaluation.evaluate import Evaluator, Measures
from hf_tc.evaluation.figures import Evaluation
from hf_tc.hub.save_extras import save_extras
from hf_tc.options import options_of

from .bench import Results, parser_of

TEXT_TOKENS = 32 * 1024
SETTINGS = (
    "calibration_tokens", "sequence_length", "alignment_steps", "joint_steps", "layer_policy", "mixer_form",
    "recurrent_rope", "conv_kernel_size", "output_norm",
)  # fmt: skip


def main() -> None:
    options = parse()
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    given: dict[str, Any] = {"max_tokens": TEXT_TOKENS}
    first, *others = options.texts
    measures = [Measures.prepare(tokenizer, first, recall=True, tasks=options.tasks, generation=True, **given)]
    measures += [Measures.prepare(tokenizer, text, **given) for text in others]
    teacher = AutoModelForCausalLM.from_pretrained(options.teacher, dtype="auto").to(options.device).eval()
    evaluators = [Evaluator(part, teacher, batch_size=options.batch_size) for part in measures]
    results = Results(options.out, [], benchmark="real_teacher", teacher=Path(options.teacher).name)
    for share in options.retain:
        for seed in options.seeds:
            kept = f"{share:g}" if isinstance(share, float) else "-".join(map(str, share))
            folder = options.students / f"{Path(options.teacher).name}-{options.mixer_form}-{kept}-seed{seed}"
            student, row = converted(teacher, tokenizer, folder, share, seed, options)
            found = [evaluator.evaluation_of(student) for evaluator in evaluators]
            student.conversion_report.add_evaluation(found[0], student, Path(first).stem)
            save_extras(student, folder, folder.name)
            row |= figures(dict(zip((Path(text).stem for text in options.texts), found, strict=True)))
            if not results.content["rows"]:
                results.columns = [name for name in row if name != "stages"]
                results.heading(f"{results.content['machine']}, {results.content['teacher']}; of the teacher's")
            results.add(**row)


def converted(
    teacher: PreTrainedModel,
    tokenizer: Any,
    folder: Path,
    share: float | list[int],
    seed: int,
    options: argparse.Namespace,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A student, made now or earlier, and what its report says of its making."""
    start = time.perf_counter()
    if not (folder / "config.json").exists():
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        student = HybridGDNForCausalLM.from_teacher(
            teacher,
            tokenizer,
            calibration_data=data_of_words(options.data),
            retained_layers=share,
            seed=seed,
            checkpoint_dir=f"{folder}.layers",
            **{name: getattr(options, name) for name in SETTINGS},
        )
        student.save_pretrained(folder)
    student = HybridGDNForCausalLM.from_pretrained(folder, dtype="auto").to(options.device).eval()
    report = student.conversion_report
    row = {"share": share, "seed": seed, "retained": report.retained_layers, "seconds": time.perf_counter() - start}
    if torch.cuda.is_available():
        row["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
    return student, row | {"stages": report.stage_seconds}


def figures(found: dict[str, Evaluation]) -> dict[str, Any]:
    """Times the teacher's perplexity, rise of the second copy's likelihood, and share of the teacher's scores."""
    row: dict[str, Any] = {}
    for name, evaluation in found.items():
        assert evaluation.teacher_perplexity is not None
        row[f"{name} x"] = evaluation.perplexity / evaluation.teacher_perplexity
        if evaluation.recall is None or evaluation.teacher is None:
            continue
        row["KL"] = evaluation.kl
        row["second copy +"] = evaluation.recall.second_copy_nll - evaluation.teacher.recall.second_copy_nll
        for task, score in (evaluation.tasks or {}).items():
            of_teacher = evaluation.teacher.tasks[task]
            row[task] = score.value / of_teacher.value
            row[f"{task} ±"] = score.standard_error and score.standard_error / of_teacher.value
    return row


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="real_teacher.json")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", nargs="+", required=True, help="as in `hf-tc convert --data`")
    parser.add_argument("--texts", nargs="+", required=True, help="texts not among the data; recall on the first")
    parser.add_argument("--tasks", nargs="*", default=[])
    parser.add_argument("--retain", type=share_or_layers, nargs="+", default=[0.25])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--students", type=Path, default=Path("students"))
    parser.add_argument("--batch-size", type=int, default=32)
    defaults = options_of(ConversionConfig())
    for name in SETTINGS:
        option, default = f"--{name.replace('_', '-')}", defaults[name]
        if isinstance(default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        else:
            kind = str if name in ("layer_policy", "mixer_form") else int
            parser.add_argument(option, type=kind, default=default)
    return parser.parse_args()


def share_or_layers(word: str) -> float | list[int]:
    """0.25, or 0,1,16."""
    return [int(layer) for layer in word.split(",")] if "," in word else float(word)


if __name__ == "__main__":
    main()
