# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One distillation from files to a folder: what `hf-tc distill` does."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, ProgressCallback
from transformers.utils import logging

from hf_tc.data.text_files import source_name, stream_documents
from hf_tc.distillation.cached_data import asked_blocks, block_length
from hf_tc.distillation.checkpoints import last_complete_checkpoint
from hf_tc.distillation.config import DistillationConfig
from hf_tc.distillation.datasets import DataPreparation
from hf_tc.distillation.finite_training import DivergedError
from hf_tc.distillation.given_data import check_rows_fit
from hf_tc.distillation.input_checks import check_is_no_adapter, check_keeps_weights_whole, load_student
from hf_tc.distillation.learning_curve import EVALUATIONS, LearningCurve
from hf_tc.distillation.recipes import DEFAULT_RECIPE, settings_of
from hf_tc.distillation.teacher_cache import CacheIdentity
from hf_tc.distillation.teacher_placement import check_placement
from hf_tc.distillation.throughput import TokenProgress
from hf_tc.distillation.trainer import DistillationTrainer
from hf_tc.distillation.training_record import RECORD_FILE, run_record, sign_last_run
from hf_tc.distillation.weight_decay import UNDECAYED
from hf_tc.modeling.out_of_memory import memory_advice
from hf_tc.resume.arguments import ARGUMENTS_FILE, record_arguments
from hf_tc.resume.fingerprint import fingerprint
from hf_tc.resume.full_disk import full_disk_advice
from hf_tc.resume.unfinished_work import WorkFolder
from hf_tc.teachers.adapters import is_peft_model
from hf_tc.teachers.finite_weights import check_finite_weights
from hf_tc.teachers.vocabulary import check_tokenizers_agree

logger = logging.get_logger(__name__)

# Without effect on the weights: what is said and shown of them, which may change when a run goes on.
SHOWN = ("report_to", "run_name", "project", "trackio_space_id", "disable_tqdm", "log_level", "logging_steps")


def distill(
    student: str | Path,
    teacher: str | Path | None,
    data: Any,
    out: str | Path,
    *,
    tokens: int | None = None,
    recipe: str = DEFAULT_RECIPE,
    evaluation_data: Any = None,
    evaluations: int = EVALUATIONS,
    **settings: Any,
) -> None:
    """Trains the student in a folder on `tokens` tokens of text or conversations, and saves it to `out`.

    LoRA is merged in the end. Checkpoints are kept in `out` + ".unfinished" until it is done; the same call goes on
    from the last complete one. The student is measured on held-out text on the way, see `LearningCurve`, and its report
    and card tell what was found and how it was trained.

    With a `teacher_cache` among the settings, `teacher` and `data` may be None; those that are given must be what it
    was made of. The length of its blocks goes before that of the recipe, and where there is no teacher nothing is
    measured on the way.

    Args:
        data, evaluation_data: as `read_documents` takes them; the latter as in `LearningCurve`.
        recipe: one of `RECIPES`.
        evaluations: how often it is measured at most, beside once before training; 0 for never.
        settings: fields of `DistillationConfig`, before those of the recipe.

    Raises:
        CalibrationDataError: the data has fewer tokens than asked for, or more than 1 % of the evaluation text in it.
        DivergedError: a loss, a gradient or a weight became NaN or infinite; nothing is saved to `out`.
        ValueError: the student is an adapter, the teacher has another tokenizer, `out` is occupied or cannot be
            written, its checkpoints are those of a call with other arguments, a setting is refused, or FSDP or
            DeepSpeed is to share out the weights.
    """
    work = WorkFolder(out)
    if settings.get("teacher_cache") is None and (teacher is None or data is None):
        missing = "teacher" if teacher is None else "text"
        raise ValueError(f"There is no {missing} to learn from. Give a --teacher and --data, or a --teacher-cache.")
    inputs = {"student": str(student), "teacher": None if teacher is None else str(teacher), "data": data}
    chosen = _chosen({**settings, "tokens": tokens}, recipe)
    options = {**inputs, **_recorded(chosen, recipe)}
    is_done = work.has_result(options)
    arguments = DistillationConfig(output_dir=str(work.folder), **chosen)
    check_keeps_weights_whole(arguments)
    check_placement(teacher, arguments)
    _check_evaluations(arguments, teacher, evaluation_data, evaluations)
    if not is_done:
        tokenizer, examples = _tokenizer_and_examples(arguments, inputs)
        model = load_student(student)
        dtype = model.dtype
        trainer = DistillationTrainer(model, teacher, arguments, train_dataset=examples, processing_class=tokenizer)
        trainer.about_run |= {"recipe": recipe} if data is None else {"recipe": recipe, "data": source_name(data)}
        curve = _curve(trainer, evaluation_data, evaluations)
        _train(trainer, curve, options, work)
        if trainer.is_world_process_zero():
            _save(trainer, curve, dtype, options, work)
    arguments.distributed_state.wait_for_everyone()  # every process has asked whether it is done
    if arguments.process_index == 0:
        work.publish()


def _chosen(settings: dict[str, Any], recipe: str) -> dict[str, Any]:
    """The settings that were given, and those of the recipe; with a cache its blocks, in place of the recipe's rows.

    A setting that is as the recipe has it counts as not given: a command line gives all of them.

    Raises:
        ValueError: another length than that of the blocks was given.
    """
    of_recipe = settings_of(recipe)
    chosen = {**of_recipe, "bf16": torch.cuda.is_available(), **settings}
    if (cache := chosen.get("teacher_cache")) is None:
        return chosen
    length, usual = block_length(cache), of_recipe.get("sequence_length", DistillationConfig.sequence_length)
    if (given := chosen.get("sequence_length", usual)) not in (usual, length):
        raise ValueError(
            f"sequence_length is {given}, and the blocks of {cache} have {length} tokens. Leave it out, or cache the "
            "teacher on blocks of that length."
        )
    repeats = chosen.get("repeated_passages", 0.0)
    return {
        **chosen,
        "teacher_cache": str(cache),
        "sequence_length": length,
        "repeated_passages": 0.0 if repeats == of_recipe.get("repeated_passages") else repeats,
    }


def _recorded(chosen: dict[str, Any], recipe: str) -> dict[str, Any]:
    """The settings that a result depends on: those of the recipe, and what is not as it would be by default."""
    defaults = {field.name: field.default for field in fields(DistillationConfig)}
    known = {"tokens", *settings_of(recipe)}
    return {
        name: value
        for name, value in sorted(chosen.items())
        if name not in SHOWN and (name in known or value != defaults.get(name, value))
    }


def _tokenizer_and_examples(arguments: DistillationConfig, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """What can be found wrong before models are loaded, and the data."""
    check_is_no_adapter(inputs["student"])
    check_rows_fit({"student": inputs["student"], "teacher": inputs["teacher"]}, arguments)
    tokenizer = AutoTokenizer.from_pretrained(inputs["student"])
    data, teacher = inputs["data"], inputs["teacher"]
    if teacher is not None:
        check_tokenizers_agree({"The student's tokenizer": tokenizer}, teacher)
    if arguments.teacher_cache is not None:
        return tokenizer, asked_blocks(arguments.teacher_cache, data, tokenizer, arguments.tokens)
    preparation = DataPreparation(tokenizer, arguments, arguments.seed)
    return tokenizer, preparation.examples(stream_documents(data), source_name(data))


def _check_evaluations(arguments: DistillationConfig, teacher: Any, evaluation_data: Any, evaluations: int) -> None:
    """Raises `ValueError` for what asks for an evaluation that there is not."""
    if evaluations < 0:
        raise ValueError(f"evaluations is {evaluations}; it must be 0 or more. Give 0 (--evaluations 0) for none.")
    if evaluation_data is not None and (teacher is None or not evaluations):
        found = "there is no teacher" if evaluations else "evaluations is 0"
        way_out = "give the teacher beside its cache" if evaluations else "ask for evaluations (--evaluations)"
        raise ValueError(
            f"evaluation_data is given, and {found}: nothing is measured on it. Leave it out, or {way_out}."
        )
    strategy = getattr(arguments.eval_strategy, "value", arguments.eval_strategy)
    if strategy != "no":
        raise ValueError(
            f"eval_strategy is {strategy!r}, and the student is measured by --evaluations and "
            "--evaluation-data here. Leave --eval-strategy out."
        )


def _curve(trainer: DistillationTrainer, text: Any, evaluations: int) -> LearningCurve | None:
    if evaluations and trainer.teacher is None:
        if trainer.is_world_process_zero():
            logger.warning(
                "The student is not measured while it is trained: a teacher_cache has no teacher to compare it with. "
                "Name --teacher too, or leave it at that with --evaluations 0."
            )
        return None
    return LearningCurve(trainer, text, evaluations=evaluations) if evaluations else None


def _train(
    trainer: DistillationTrainer, curve: LearningCurve | None, options: dict[str, Any], work: WorkFolder
) -> None:
    if curve is not None:
        trainer.add_callback(curve)
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(TokenProgress(trainer.throughput))
    if trainer.is_world_process_zero():
        found = {**_fingerprints(trainer), "processes": trainer.args.world_size, "undecayed": UNDECAYED.pattern}
        record_arguments(work.folder / ARGUMENTS_FILE, {**options, **found})
    with memory_advice("Set a smaller per_device_train_batch_size or a shorter sequence_length."):
        try:
            trainer.train(resume_from_checkpoint=last_complete_checkpoint(work.folder))
        except DivergedError as error:
            raise DivergedError(
                f"{error} {work.folder} goes on with the settings of this run alone: remove it to begin with others."
            ) from error


def _save(
    trainer: DistillationTrainer,
    curve: LearningCurve | None,
    dtype: torch.dtype,
    options: dict[str, Any],
    work: WorkFolder,
) -> None:
    """Saves the student, an adapter merged, in the dtype that it came in, with what was measured of just that."""
    trained = trainer.accelerator.unwrap_model(trainer.model)
    is_adapted = is_peft_model(trained)
    model = (trained.merge_and_unload() if is_adapted else trained).to(dtype)
    check_finite_weights(model, "distilled student")  # in float16 a weight may be infinite that was not in float32
    model.tokenizer = trainer.processing_class
    sign_last_run(model)
    if curve is not None and (is_adapted or dtype != torch.float32):
        curve.add_to_report(model)
    run = run_record(trainer)

    def write(folder: Path) -> None:
        model.save_pretrained(folder, repo_id=work.out.resolve().name)
        (folder / RECORD_FILE).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")

    with full_disk_advice(work.folder, lambda: f"{work.folder} keeps the last checkpoint. Make room, and go on there."):
        work.save(write, options)


def _fingerprints(trainer: DistillationTrainer) -> dict[str, Any]:
    """What the run was begun with; a teacher that only its cache knows by what that says of it."""
    data, teacher, identity = trainer.train_dataset, trainer.teacher, CacheIdentity.of(trainer.train_dataset)
    if identity is None:
        text = data.tensors()
    else:
        text = (rows["input_ids"] for rows in data.select_columns("input_ids").iter(batch_size=1_000))
    of_cache = None if identity is None else asdict(identity)
    return {
        "text": fingerprint(text),
        "student_weights": fingerprint(trainer.model.state_dict().values()),
        "teacher_weights": of_cache if teacher is None else fingerprint(teacher.state_dict().values()),
    }
