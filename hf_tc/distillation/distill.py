# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One distillation from files to a folder: what `hf-tc distill` does."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints

from hf_tc.data.text_files import source_name, stream_documents
from hf_tc.distillation.config import DistillationConfig
from hf_tc.distillation.datasets import DataPreparation
from hf_tc.distillation.input_checks import check_is_no_adapter, load_student
from hf_tc.distillation.trainer import DistillationTrainer
from hf_tc.modeling.out_of_memory import memory_advice
from hf_tc.resume.arguments import ARGUMENTS_FILE, record_arguments
from hf_tc.resume.fingerprint import fingerprint
from hf_tc.resume.unfinished_work import WorkFolder
from hf_tc.teachers.adapters import is_peft_model
from hf_tc.teachers.finite_weights import check_finite_weights
from hf_tc.teachers.vocabulary import check_tokenizers_agree

WARMUP_RATIO = 0.05
CHECKPOINTS = 10  # of a run; it resumes from the last one


def distill(
    student: str | Path,
    teacher: str | Path,
    data: Any,
    out: str | Path,
    *,
    tokens: int,
    sequence_length: int = 1024,
    batch_size: int = 8,
    learning_rate: float = 3e-4,
    gate_learning_rate: float | None = None,
    trains: str = "all",
    seed: int = 0,
) -> None:
    """Trains the student in a folder on `tokens` tokens of text, once through, and saves it to `out`.

    `learning_rate`, `gate_learning_rate` and `trains` are as in `DistillationConfig`; LoRA is merged in the end.
    Checkpoints are kept in `out` + ".unfinished" until it is done; the same call goes on from the last complete one.

    Raises:
        CalibrationDataError: the text has fewer tokens than asked for.
        DivergedError: a loss, a gradient or a weight became NaN or infinite; nothing is saved to `out`.
        ValueError: the student is an adapter, the teacher has another tokenizer, `out` is occupied or cannot be
            written, or its checkpoints are those of a call with other arguments.
    """
    work = WorkFolder(out)
    options = {
        "student": str(student),
        "teacher": str(teacher),
        "data": data,
        "tokens": tokens,
        "sequence_length": sequence_length,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "gate_learning_rate": gate_learning_rate,
        "trains": trains,
        "seed": seed,
    }
    is_done = work.has_result(options)
    arguments = _training_arguments(work.folder, options)
    if not is_done:
        _train(arguments, options, work)
    arguments.distributed_state.wait_for_everyone()  # every process has asked whether it is done
    if arguments.process_index == 0:
        work.publish()


def _training_arguments(folder: Path, options: dict[str, Any]) -> DistillationConfig:
    return DistillationConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=options["batch_size"],
        learning_rate=options["learning_rate"],
        gate_learning_rate=options["gate_learning_rate"],
        trains=options["trains"],
        tokens=options["tokens"],
        sequence_length=options["sequence_length"],
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP_RATIO,
        bf16=torch.cuda.is_available(),
        logging_steps=1 / 50,
        save_steps=1 / CHECKPOINTS,
        save_total_limit=2,
        report_to="none",
        seed=options["seed"],
    )


def _train(arguments: DistillationConfig, options: dict[str, Any], work: WorkFolder) -> None:
    student = options["student"]
    check_is_no_adapter(student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    check_tokenizers_agree({"The student's tokenizer": tokenizer}, options["teacher"])
    data = options["data"]
    examples = DataPreparation(tokenizer, arguments).examples(stream_documents(data), source_name(data))
    model = load_student(student)
    dtype = model.dtype
    trainer = DistillationTrainer(
        model, options["teacher"], arguments, train_dataset=examples, processing_class=tokenizer
    )
    if trainer.is_world_process_zero():
        found = {
            "text": fingerprint(examples.tensors()),
            "student_weights": fingerprint(model.state_dict().values()),
            "teacher_weights": fingerprint(trainer.teacher.state_dict().values()),
            "processes": arguments.world_size,
        }
        record_arguments(work.folder / ARGUMENTS_FILE, {**options, **found})
    with memory_advice("Set a smaller batch_size or a shorter sequence_length."):
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(work.folder))
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if not trainer.is_world_process_zero():
        return
    model = (trained.merge_and_unload() if is_peft_model(trained) else trained).to(dtype)
    check_finite_weights(model, "distilled student")  # in float16 a weight may be infinite that was not in float32
    model.tokenizer = tokenizer
    work.save(lambda folder: model.save_pretrained(folder, repo_id=work.out.resolve().name), options)


def last_complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a trainer that was written to its end: its state is written last."""
    for path in reversed(sort_checkpoints(str(folder))):
        try:
            json.loads((Path(path) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return path
    return None
