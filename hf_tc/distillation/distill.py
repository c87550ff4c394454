# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One distillation from files to a folder: what `hf-tc distill` does."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import AutoTokenizer

from hf_tc.data.text_files import source_name
from hf_tc.data.token_blocks import CalibrationDataError, read_documents, token_blocks
from hf_tc.distillation.checkpoints import last_complete_checkpoint
from hf_tc.distillation.config import DistillationConfig
from hf_tc.distillation.input_checks import check_is_no_adapter, load_student
from hf_tc.distillation.teacher_cache import CacheIdentity, load_teacher_cache
from hf_tc.distillation.trainer import DistillationTrainer
from hf_tc.modeling.out_of_memory import memory_advice
from hf_tc.resume.arguments import ARGUMENTS_FILE, record_arguments
from hf_tc.resume.fingerprint import fingerprint
from hf_tc.resume.full_disk import full_disk_advice
from hf_tc.resume.unfinished_work import WorkFolder
from hf_tc.teachers.adapters import is_peft_model
from hf_tc.teachers.finite_weights import check_finite_weights
from hf_tc.teachers.vocabulary import check_tokenizers_agree

WARMUP_RATIO = 0.05
CHECKPOINTS = 10  # of a run; it resumes from the last one


def example(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Token ids `[T]`, none of them padding, as an example for a trainer."""
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


class BlockDataset(Dataset[dict[str, torch.Tensor]]):
    """Blocks of token ids `[N, T]` as a dataset of examples."""

    def __init__(self, blocks: torch.Tensor) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return example(self.blocks[index])


def distill(
    student: str | Path,
    teacher: str | Path | None,
    data: Any,
    out: str | Path,
    *,
    tokens: int,
    sequence_length: int = 1024,
    batch_size: int = 8,
    learning_rate: float = 3e-4,
    gate_learning_rate: float | None = None,
    trains: str = "all",
    teacher_cache: str | Path | None = None,
    seed: int = 0,
) -> None:
    """Trains the student in a folder on `tokens` tokens of text, once through, and saves it to `out`.

    `learning_rate`, `gate_learning_rate`, `trains` and `teacher_cache` are as in `DistillationConfig`; LoRA is merged
    in the end. With a cache, teacher and data may be None; those that are given must be what it was made of.
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
        "teacher": None if teacher is None else str(teacher),
        "teacher_cache": None if teacher_cache is None else str(teacher_cache),
        "data": data,
        "tokens": tokens,
        "sequence_length": sequence_length,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "gate_learning_rate": gate_learning_rate,
        "trains": trains,
        "seed": seed,
    }
    if teacher_cache is None and (teacher is None or data is None):
        missing = "teacher" if teacher is None else "text"
        raise ValueError(f"There is no {missing} to learn from. Give a --teacher and --data, or a --teacher-cache.")
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
        teacher_cache=options["teacher_cache"],
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
    if options["teacher"] is not None:
        check_tokenizers_agree({"The student's tokenizer": tokenizer}, options["teacher"])
    blocks = _blocks(options, tokenizer)
    model = load_student(student)
    dtype = model.dtype
    trainer = DistillationTrainer(
        model, options["teacher"], arguments, train_dataset=BlockDataset(blocks), processing_class=tokenizer
    )
    if trainer.is_world_process_zero():
        found = {
            "text": fingerprint([blocks]),
            "student_weights": fingerprint(model.state_dict().values()),
            "teacher_weights": _teacher_fingerprint(trainer),
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
    with full_disk_advice(work.folder, lambda: f"{work.folder} keeps the last checkpoint. Make room, and go on there."):
        work.save(lambda folder: model.save_pretrained(folder, repo_id=work.out.resolve().name), options)


def _blocks(options: dict[str, Any], tokenizer: Any) -> torch.Tensor:
    """Token ids `[N, T]` of the text or, without one, of the teacher's cache."""
    data, tokens, sequence_length = options["data"], options["tokens"], options["sequence_length"]
    if data is None:
        cache = load_teacher_cache(options["teacher_cache"]).select_columns("input_ids")
        data, sequence_length = options["teacher_cache"], len(cache[0]["input_ids"])
        blocks = cache[: max(1, tokens // sequence_length)]["input_ids"]
    else:
        blocks = token_blocks(read_documents(data, tokens), tokenizer, sequence_length, tokens)
    if len(blocks) < tokens // sequence_length:
        raise CalibrationDataError(
            f"{source_name(data)} has {blocks.numel():,} tokens in blocks of {sequence_length}, {tokens:,} were asked "
            "for. Give more text or ask for fewer tokens."
        )
    return blocks


def _teacher_fingerprint(trainer: DistillationTrainer) -> Any:
    if trainer.teacher is not None:
        return fingerprint(trainer.teacher.state_dict().values())
    identity = CacheIdentity.of(trainer.train_dataset)
    return None if identity is None else asdict(identity)
