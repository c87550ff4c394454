# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How a student was distilled: tokens and steps in its configuration, the whole run in its report, for its card."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_tc.data.text_files import source_name
from hf_tc.distillation.given_data import is_text_source
from hf_tc.distillation.learning_curve import curve_of
from hf_tc.distillation.teacher_cache import CacheIdentity
from hf_tc.modeling import HybridGDNConfig
from hf_tc.resume.fingerprint import weights_fingerprint
from hf_tc.teachers.adapters import is_peft_model
from hf_tc.teachers.offloading import device_name

if TYPE_CHECKING:
    from hf_tc.distillation.config import DistillationConfig
    from hf_tc.distillation.trainer import DistillationTrainer

RECORD_FILE = "distillation.json"  # in the folder that `hf-tc distill` writes: the run by itself
# What a card tells of the settings.
TOLD = (
    *("learning_rate", "gate_learning_rate", "lr_scheduler_type", "trains", "divergence", "temperature", "ce_weight"),
    *("layer_weight", "distribution_weight", "repeated_passages"),
)


class TrainingRecord(TrainerCallback):
    """Keeps the tokens and steps of a student's distillations in `config.calibration`, up to date after every step.

    So they are there however the student is saved, in the middle of a run or after it. What earlier runs did is kept.
    At the end of a run all of it, see `run_record`, goes into the student's conversion report, if it has one.
    """

    def __init__(self, trainer: DistillationTrainer, config: HybridGDNConfig) -> None:
        self.trainer, self.config = trainer, config
        calibration = config.calibration or {}
        self.before = {name: calibration.get(name) or 0 for name in ("distilled_tokens", "distilled_steps")}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        done = {"distilled_tokens": int(state.num_input_tokens_seen), "distilled_steps": state.global_step}
        total = {name: self.before[name] + count for name, count in done.items()}
        self.config.calibration = {**(self.config.calibration or {}), **total}

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        student = self.trainer.accelerator.unwrap_model(self.trainer.model)
        report = getattr(student, "conversion_report", None)
        if report is None or self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled:
            return
        report.distillations = [*report.distillations, run_record(self.trainer)]
        if not is_peft_model(student):
            sign_last_run(student)


def about_data(dataset: Any) -> dict[str, Any]:
    """What a report tells of a data set: what it is called; of a teacher's cache, how many tokens it knows at each."""
    if (identity := CacheIdentity.of(dataset)) is not None:
        return {"data": "the text of a teacher's cache", "teacher_top_k": identity.top_k}
    has_name = hasattr(dataset, "column_names") or is_text_source(dataset)
    return {"data": source_name(dataset) if has_name else f"a {type(dataset).__name__}"}


def sign_last_run(student: Any) -> None:
    """Notes in the record of the last run that its curve ends at these weights."""
    if getattr(student, "conversion_report", None) is not None and student.conversion_report.distillations:
        weights = weights_fingerprint(student.state_dict().values())
        student.conversion_report.distillations[-1]["student_weights"] = weights


def run_record(trainer: DistillationTrainer) -> dict[str, Any]:
    """One run, ready for JSON: tokens, steps, data, rates, hardware, and the curve where it was measured."""
    args: DistillationConfig = trainer.args
    state, rate = trainer.state, trainer.throughput.tokens_per_second
    sequences = "curriculum" if args.curriculum else "sequence_length"
    return {
        "tokens": int(state.num_input_tokens_seen),
        "steps": state.global_step,
        **trainer.about_run,
        **{name: getattr(args, name) for name in TOLD},
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "tokens_per_step": round(state.num_input_tokens_seen / max(state.global_step, 1)),
        sequences: getattr(args, sequences),
        "hardware": f"{args.world_size} x {device_name(args.device)}",
        "tokens_per_second": None if rate is None else round(rate, 1),
        "versions": {package: version(package) for package in ("hf_tc", "torch", "transformers")},
        "curve": curve_of(state.log_history),
    }
