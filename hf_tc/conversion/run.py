# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One conversion, once its layers are chosen: layer by layer, then together, measured at every stage and reported."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tc.alignment.joint import align_jointly, is_beside_its_student, joint_pass_of
from hf_tc.config import AlignmentConfig, JointConfig
from hf_tc.conversion.checkpoint import CANDIDATES, ConversionCheckpoint
from hf_tc.conversion.layer_by_layer import fit_layers, load_stage
from hf_tc.conversion.task import ConversionTask
from hf_tc.evaluation.perplexity import EVAL_TOKENS, perplexity
from hf_tc.memory.estimate import blocks_at_once
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.report.records import ConversionReport
from hf_tc.resume.fingerprint import weights_fingerprint
from hf_tc.selection import LayerSelection
from hf_tc.teachers.new_student import mixer_of
from hf_tc.teachers.offloading import device_name, dispatch_like, dispatched_like, execution_device


@dataclass
class Measured:
    """Perplexity by stage on `[N, T]` blocks, as many as EVAL_TOKENS need."""

    blocks: Tensor
    perplexity: dict[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blocks = self.blocks[: max(1, EVAL_TOKENS // self.blocks.shape[1])]

    @property
    def tokens(self) -> int:
        """Tokens that were predicted."""
        return self.blocks.shape[0] * (self.blocks.shape[1] - 1)

    def measure(self, stage: str, model: PreTrainedModel) -> None:
        self.perplexity[stage] = perplexity(model, self.blocks, batch_size=blocks_at_once(self.blocks.shape[1]))


def convert(
    task: ConversionTask,
    selection: LayerSelection,
    evaluation_blocks: Tensor | None = None,
    *,
    data: str = "",
    arguments: dict[str, Any] | None = None,
) -> HybridGDNForCausalLM:
    """Calibrates and aligns every layer that the selection does not retain; the student with its report.

    The student computes where its teacher does; see `hf_tc.teachers.offloading`.

    Args:
        evaluation_blocks: `[N, T]` for the perplexity of every stage; the held-out blocks by default.
        data, arguments: name of the calibration text and arguments of the call, for the report.

    Raises:
        ValueError: too little room on the disk, or the folder belongs to a conversion with other arguments.
    """
    checkpoint = begin(task, selection.retained_layers)
    measured = Measured(task.held_out_blocks if evaluation_blocks is None else evaluation_blocks)
    with task.clock.stage("evaluate"):
        measured.measure("teacher", task.teacher)
    _measure_student(task, measured, "copied")
    fit_layers(task, task.settings, checkpoint, _candidates(task))
    for stage in ("closed_form", "aligned") if task.settings.alignment.steps else ("closed_form",):
        load_stage(task.student, checkpoint, stage)
        _measure_student(task, measured, stage)
    joint = joint_budget(task)
    if joint.steps:
        joint_stage(task, checkpoint, joint)
        _measure_student(task, measured, "joint")
    about_the_call = {"data": data, "arguments": arguments or {}, "joint_steps": joint.steps}
    report = _report(task, selection, checkpoint, measured, **about_the_call)
    task.student.conversion_report = report
    task.student.config.calibration = report.provenance
    dispatch_like(task.student, task.teacher)
    return task.student


def begin(task: ConversionTask, retained: list[int]) -> ConversionCheckpoint:
    """Makes the other layers of the student recurrent; where they are kept, finished ones included."""
    task.make_recurrent(layer for layer in range(task.num_layers) if layer not in retained)
    return task.checkpoint(task.folder, task.settings)


def joint_budget(task: ConversionTask) -> AlignmentConfig:
    """Steps of joint alignment, as asked for or by the room there is, and their sizes."""
    teacher, layers = task.teacher, task.student.config.linear_layers
    if not layers or not is_beside_its_student(teacher):
        return JointConfig(0).budget(has_room=False)
    mixers = nn.ModuleList(mixer_of(task.student, layer) for layer in layers)
    _, fits = joint_pass_of(teacher, mixers, task.settings.sequence_length)
    return task.settings.joint.budget(fits)


def joint_stage(task: ConversionTask, checkpoint: ConversionCheckpoint, joint: AlignmentConfig) -> None:
    """Phase 3 from the aligned layers, unless the checkpoint holds its result; the student has it afterwards."""
    student, settings = task.student, task.settings
    if not checkpoint.has_joint(joint):
        load_stage(student, checkpoint, "aligned")
        mixers = {layer: mixer_of(student, layer) for layer in student.config.linear_layers}
        blocks = task.fitted_blocks, task.held_out_blocks
        with task.clock.stage("joint"):
            file = checkpoint.joint_progress
            align_jointly(student, task.teacher, mixers.values(), *blocks, joint, settings.seed, file, task.start)
        checkpoint.save_joint({layer: mixer.state_dict() for layer, mixer in mixers.items()}, joint)
    load_stage(student, checkpoint, "joint")


def _candidates(task: ConversionTask) -> ConversionCheckpoint | None:
    """Layers that were solved to choose among them."""
    folder = task.folder / CANDIDATES
    if not folder.exists():
        return None
    return ConversionCheckpoint(folder, task.record((), task.settings.closed_form_alone()))


def _measure_student(task: ConversionTask, measured: Measured, stage: str) -> None:
    with task.clock.stage("evaluate"), dispatched_like(task.student, task.teacher):
        measured.measure(stage, task.student)


def _report(
    task: ConversionTask,
    selection: LayerSelection,
    checkpoint: ConversionCheckpoint,
    measured: Measured,
    **about_the_call: Any,
) -> ConversionReport:
    config, settings = task.student.config, task.settings
    return ConversionReport(
        teacher=str(task.teacher.name_or_path),
        retained_layers=list(config.retained_layers),
        linear_layers=list(config.linear_layers),
        calibration_tokens=task.blocks.numel(),
        alignment_steps=settings.alignment.steps,
        seed=settings.seed,
        versions=task.identity["versions"],
        layers=[checkpoint.row(layer) for layer in config.linear_layers],
        perplexity=measured.perplexity,
        perplexity_tokens=measured.tokens,
        held_out_tokens=measured.blocks.tolist(),
        selection=selection,
        fingerprints={name: task.identity[name] for name in ("teacher", "blocks")},
        student_weights=weights_fingerprint(task.student.state_dict().values()),
        device=device_name(execution_device(task.teacher)),
        seconds=task.clock.total,
        stage_seconds=dict(task.clock.seconds),
        **about_the_call,
    )
