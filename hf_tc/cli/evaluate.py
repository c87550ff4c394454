# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc evaluate`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tc.cli.shared import DATA_HELP, DEFAULT, add_command, add_sequence_length, add_setting, console, one_or_many

if TYPE_CHECKING:
    from hf_tc.evaluation.evaluate import Measures

STDOUT = "-"


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "evaluate",
        run,
        "perplexity, with a teacher also KL and top-1 agreement; recall, tasks and generation on demand; one table",
        "student --teacher Qwen/Qwen3-0.6B --data books-val.txt --recall --generation --tasks lambada_openai,my.jsonl",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder or Hub id of any causal LM, student or not")
    parser.add_argument(
        "--data", nargs="+", help=f"text for perplexity and recall: {DATA_HELP} (default: the packaged held-out sample)"
    )
    parser.add_argument("--teacher", help="folder or Hub id")
    add_sequence_length(parser)
    parser.add_argument("--max-tokens", type=int, help="tokens of text for the perplexity at most (default: all)")
    parser.add_argument(
        "--tasks",
        type=_task_names,
        default=[],
        metavar="NAME,FILE.jsonl",
        help="tasks of lm-eval by name, and local ones: JSON lines with ctx, choices and label, with sentence (a blank "
        "_), choices and label, or with text whose last word is to be predicted; needs pip install 'hf_tc[eval]'",
    )
    parser.add_argument("--task-rows", type=int, help="rows of each task, from its start (default: all)")
    parser.add_argument(
        "--recall",
        nargs="?",
        type=_distances,
        const=True,
        default=False,
        metavar="0,128,512",
        help="second copies of repeated passages, and key-value look-up over so many tokens (default: as shown)",
    )
    parser.add_argument("--generation", action="store_true", help="greedy answers to a few fixed questions")
    parser.add_argument("--batch-size", type=int, default=4, help=f"blocks, or rows of a task, at once {DEFAULT}")
    add_setting(parser, "device")
    parser.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="one JSON object, of one model its figures and of several those by name: in the file, or without FILE on "
        "stdout and nothing else",
    )
    parser.add_argument(
        "--add-to-report", action="store_true", help="write the figures into each student's report and model card"
    )


def _task_names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names no task, such as lambada_openai or my.jsonl.")
    return names


def _distances(text: str) -> list[int]:
    try:
        distances = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of distances in tokens, such as 0,128,512.") from error
    return distances


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    _check(options)
    from hf_tc.evaluation.evaluate import Measures
    from hf_tc.report.comparison_tables import print_comparison

    tokenizer = _tokenizer_of_all(options)
    measures = Measures.prepare(
        tokenizer,
        one_or_many(options.data),
        sequence_length=options.sequence_length,
        max_tokens=options.max_tokens,
        tasks=options.tasks,
        task_rows=options.task_rows,
        recall=options.recall,
        generation=options.generation,
    )
    figures = _measure(options, measures)
    result = next(iter(figures.values())) if len(figures) == 1 else {"models": figures}
    if options.json == STDOUT:
        return result
    if options.json is not None:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    names = {name: Path(name).name for name in figures}
    if len(set(names.values())) < len(names):
        names = {name: name for name in figures}
    print_comparison({names[name]: found for name, found in figures.items()}, console)
    return None


def _check(options: argparse.Namespace) -> None:
    """What would else be refused once all is measured."""
    twice = next((name for name in options.models if options.models.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice. Name each model once.")
    if options.json not in (None, STDOUT) and not Path(options.json).resolve().parent.is_dir():
        raise ValueError(f"--json {options.json} is in a folder that does not exist. Make it first.")
    if options.add_to_report:
        from hf_tc.report.records import ConversionReport

        for name in options.models:
            if not ConversionReport.exists(name):
                raise ValueError(f"{name} has no conversion report to add to. Leave --add-to-report out.")


def _tokenizer_of_all(options: argparse.Namespace) -> Any:
    """The tokenizer of the models, checked, before weights of the first are read: all are there, and use it."""
    from transformers import AutoConfig, AutoTokenizer

    from hf_tc.teachers.loading import check_is_model
    from hf_tc.teachers.positions import check_has_positions
    from hf_tc.teachers.vocabulary import check_tokenizers_agree

    named = {name: "model" for name in options.models} | ({options.teacher: "teacher"} if options.teacher else {})
    for name in named:
        check_is_model(name)
    tokenizer = AutoTokenizer.from_pretrained(options.models[0])
    configs = {}
    for name, role in named.items():
        configs[f"{role} {name}"] = AutoConfig.from_pretrained(name)
        check_tokenizers_agree({f"The tokenizer of {options.models[0]}": tokenizer}, name, role)
    check_has_positions(configs, options.sequence_length)
    return tokenizer


def _measure(options: argparse.Namespace, measures: "Measures") -> dict[str, dict[str, Any]]:
    """The figures of each model by its name; one model is in memory at a time, beside the teacher."""
    from hf_tc.evaluation.evaluate import Evaluator
    from hf_tc.teachers.checks import default_device
    from hf_tc.teachers.loading import load_causal_lm

    device = options.device or default_device()
    show_progress = options.json != STDOUT
    teacher = None if options.teacher is None else load_causal_lm(options.teacher, dtype="auto")
    evaluator = Evaluator(measures, teacher, batch_size=options.batch_size, device=device, show_progress=show_progress)
    figures = {}
    for name in options.models:
        model = load_causal_lm(name, dtype="auto")
        evaluation = evaluator.evaluation_of(model)
        figures[name] = evaluation.to_dict()
        if options.add_to_report:
            _add_to_report(model, evaluation, name, options.data)
        del model  # before the next is loaded
    return figures


def _add_to_report(student: Any, evaluation: Any, folder: str, data: list[str] | None) -> None:
    from hf_tc.data.text_files import source_name
    from hf_tc.hub.save_extras import save_extras

    text = "the held-out sample text that ships with hf_tc" if data is None else source_name(one_or_many(data))
    student.conversion_report.add_evaluation(evaluation, student, text)
    save_extras(student, Path(folder), Path(folder).resolve().name)
