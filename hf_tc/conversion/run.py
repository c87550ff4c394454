# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One conversion, layer by layer: capture the teacher, solve, align, checkpoint, report."""

import copy
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_tc.alignment.joint import align_jointly, check_not_dispatched
from hf_tc.calibration.capture_attention import CapturedAttention, LayerStream
from hf_tc.config import ConversionConfig
from hf_tc.conversion.checkpoint import ConversionCheckpoint, conversion_arguments
from hf_tc.conversion.fit_layer import FittedLayer, LayerText, fit_layer
from hf_tc.data.corrupted_sequences import corrupted_sequences, number_of_corrupted_sequences
from hf_tc.evaluation.perplexity import EVAL_TOKENS, perplexity
from hf_tc.memory.estimate import blocks_at_once, free_bytes, largest, layer_bytes, text_bytes, widths_of
from hf_tc.modeling import HybridGDNConfig, HybridGDNForCausalLM
from hf_tc.modeling.gated_deltanet import GatedDeltaNet
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers
from hf_tc.report.records import ConversionReport, device_name
from hf_tc.resume.fingerprint import weights_fingerprint
from hf_tc.resume.output_folder import check_free_space
from hf_tc.teachers.new_student import build_student
from hf_tc.teachers.offloading import dispatch_like, dispatched_like, execution_device


class Conversion:
    """One run over the layers of a teacher. Layers are independent: each is fitted on the teacher's own inputs.

    Args:
        teacher: in eval mode; it is only read.
        blocks: calibration tokens `[N, T]`, the held-out ones last.
        retained: layers that keep attention.
        folder: where finished layers are kept, see `ConversionCheckpoint`.
        data: name of the calibration text, for the report.
        evaluation_blocks: `[N, T]` for the perplexity of every stage; the held-out blocks by default.
        share_weights: the student's retained part uses the teacher's storage.
        candidates: folder of a conversion of all layers in closed form, from the same text; what it holds is not
            solved again.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        blocks: Tensor,
        retained: tuple[int, ...],
        settings: ConversionConfig,
        folder: str | Path,
        *,
        data: str = "",
        evaluation_blocks: Tensor | None = None,
        share_weights: bool = False,
        candidates: str | Path | None = None,
    ) -> None:
        if settings.joint.steps:
            check_not_dispatched(teacher)
        self.teacher, self.settings = teacher, settings
        held_out = max(1, round(settings.held_out_fraction * len(blocks)))
        self.blocks, self.held_out_blocks = blocks[:-held_out], blocks[-held_out:]
        self.evaluation_blocks = self.held_out_blocks if evaluation_blocks is None else evaluation_blocks
        self.alignment_blocks = self.blocks  # the text first
        if settings.alignment.steps:
            windows = corrupted_sequences(self.blocks, number_of_corrupted_sequences(*self.blocks.shape), settings.seed)
            self.alignment_blocks = torch.cat([self.blocks, windows])
        self.student = _unconverted(teacher, retained, settings, share_weights)
        self.linear_layers = self.student.config.linear_layers
        self.report = ConversionReport(
            teacher=str(teacher.name_or_path),
            retained_layers=list(retained),
            linear_layers=list(self.linear_layers),
            calibration_tokens=blocks.numel(),
            alignment_steps=settings.alignment.steps,
            joint_steps=settings.joint.steps,
            seed=settings.seed,
            data=data,
            versions={name: version(name) for name in ("hf_tc", "torch", "transformers")},
            device=device_name(execution_device(teacher)),
        )
        check_free_space(Path(folder), self._bytes_to_write())
        arguments = conversion_arguments(teacher, blocks, retained, asdict(settings))
        self.report.fingerprints = {name: arguments[name] for name in ("teacher", "blocks")}
        self.checkpoint, self.candidates = ConversionCheckpoint(folder, arguments), None
        if candidates is not None:
            arguments = arguments | {"retained_layers": [], "settings": asdict(settings.closed_form_alone())}
            self.candidates = ConversionCheckpoint(candidates, arguments)

    def run(self) -> HybridGDNForCausalLM:
        """Calibrates and aligns every recurrent layer; returns the student with its report.

        The student computes where its teacher does; see `hf_tc.teachers.offloading`.
        """
        start = time.perf_counter()
        self._measure("teacher", self.teacher)
        self._measure_student("copied")
        self.fit_layers()
        for stage in ("closed_form", "aligned") if self.settings.alignment.steps else ("closed_form",):
            self.load_stage(stage)
            self._measure_student(stage)
        if self.settings.joint.steps:
            self.align_jointly()
            self._measure_student("joint")
        self.report.layers = [self.checkpoint.row(layer) for layer in self.linear_layers]
        self.report.student_weights = weights_fingerprint(self.student.state_dict().values())
        self.report.seconds = time.perf_counter() - start
        self.student.conversion_report = self.report
        self.student.config.calibration = self.report.provenance
        dispatch_like(self.student, self.teacher)
        return self.student

    def _bytes_to_write(self) -> int:
        """Every recurrent layer at each stage, and then the student, which is usually saved beside them."""
        layers = sum(_size(mixer_of(self.student, layer)) for layer in self.linear_layers)
        return self.settings.stages * layers + _size(self.student)

    def _measure(self, stage: str, model: PreTrainedModel) -> None:
        blocks = self.evaluation_blocks[: max(1, EVAL_TOKENS // self.evaluation_blocks.shape[1])]
        self.report.perplexity[stage] = perplexity(model, blocks)
        self.report.perplexity_tokens = blocks.shape[0] * (blocks.shape[1] - 1)

    def _measure_student(self, stage: str) -> None:
        with dispatched_like(self.student, self.teacher):
            self._measure(stage, self.student)

    def load_stage(self, stage: str) -> None:
        """Gives the student the weights that all layers had at a stage, "closed_form", "aligned" or "joint"."""
        for layer in self.linear_layers:
            mixer_of(self.student, layer).load_state_dict(self.checkpoint.weights(layer, stage))

    def fit_layers(self) -> None:
        """Solves and aligns every recurrent layer that the checkpoint does not hold yet."""
        batch, in_host_memory = blocks_at_once(self.blocks.shape[1]), not self._text_fits()
        streams = [
            LayerStream(self.teacher.base_model, part, batch, in_host_memory=in_host_memory)
            for part in (self.alignment_blocks, self.held_out_blocks)
        ]
        steps = self.settings.alignment.steps + 1  # of one layer: the closed form, then the alignment
        with tqdm(total=steps * len(self.linear_layers), desc="Calibrating", unit="step", mininterval=1.0) as progress:
            for layer in range(max(self.linear_layers, default=-1) + 1):
                progress.set_postfix_str(f"layer {layer}", refresh=False)
                if layer in self.linear_layers and not self.checkpoint.has(layer):
                    # Not kept in a variable: it would live on while the next layer is captured.
                    self._fit_layer(layer, progress, *(stream.advance_and_capture(layer) for stream in streams))
                    continue
                for stream in streams:
                    stream.advance(layer)
                progress.update(steps if layer in self.linear_layers else 0)

    def align_jointly(self) -> None:
        """Phase 3 from the aligned layers, unless the checkpoint holds its result; the student has it afterwards."""
        if not self.checkpoint.has_joint():
            self.load_stage("aligned")
            mixers = {layer: mixer_of(self.student, layer) for layer in self.linear_layers}
            blocks, settings = (self.blocks, self.held_out_blocks), self.settings
            align_jointly(self.student, self.teacher, mixers.values(), *blocks, settings.joint, settings.seed)
            self.checkpoint.save_joint({layer: mixer.state_dict() for layer, mixer in mixers.items()})
        self.load_stage("joint")

    def _text_fits(self) -> bool:
        """Whether what is captured of a layer, and the work on it, fit beside the weights on the device."""
        free = free_bytes(execution_device(self.teacher))
        if free is None:
            return True
        mixers = (mixer_of(self.student, layer) for layer in self.linear_layers)
        widths = widths_of(self.teacher, largest(mixers), self.teacher.dtype.itemsize)
        tokens = self.alignment_blocks.numel() + self.held_out_blocks.numel()
        needed = text_bytes(widths, tokens, self.blocks.numel())
        return needed + layer_bytes(widths, tokens, self.settings, on_gpu=True) <= free

    def _fit_layer(self, layer: int, progress: tqdm, captured: CapturedAttention, held_out: CapturedAttention) -> None:
        solved = None
        if self.candidates is not None and self.candidates.has(layer):
            closed_form = self.candidates.weights(layer, "closed_form")
            solved = FittedLayer({"closed_form": closed_form}, self.candidates.row(layer))
        text = LayerText(captured, len(self.blocks), held_out, self._softmax_of(layer))
        seed, mixer = self.settings.seed + layer, mixer_of(self.student, layer)
        fitted = fit_layer(mixer, text, self.settings.alignment, seed, solved=solved, on_step=progress.update)
        self.checkpoint.save(layer, fitted.weights, fitted.row)

    def _softmax_of(self, layer: int) -> dict[str, Any]:
        """Scaling and window of the teacher's softmax in a layer. Windows are read off the configuration: attention
        modules of some families have none where they use one, others have one where they use none."""
        attention = find_attention(find_decoder_layers(self.teacher.base_model)[layer])[1]
        sliding = self.student.config.teacher_layer_types[layer] == "sliding_attention"
        window = self.student.config.teacher_config.sliding_window if sliding else None
        return {"scaling": attention.scaling, "window": window}


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def mixer_of(student: HybridGDNForCausalLM, layer: int) -> GatedDeltaNet:
    """The recurrent mixer of a converted layer."""
    modules = find_decoder_layers(student.base_model)[layer].modules()
    return next(module for module in modules if isinstance(module, GatedDeltaNet))


def _unconverted(
    teacher: PreTrainedModel, retained: tuple[int, ...], settings: ConversionConfig, share_weights: bool
) -> HybridGDNForCausalLM:
    kinds = HybridGDNConfig(text_config=copy.deepcopy(teacher.config)).teacher_layer_types
    layer_types = [kind if index in retained else "linear_attention" for index, kind in enumerate(kinds)]
    device = execution_device(teacher)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)  # new gates start at random
        return build_student(teacher, layer_types, config_kwargs=settings.student_options, share_weights=share_weights)
