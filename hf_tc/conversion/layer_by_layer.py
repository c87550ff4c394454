# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""One pass over the layers of a teacher: capture, solve, align, checkpoint.

Layers are independent: each is fitted on the teacher's own inputs, whatever becomes of the others. So the choice of
layers, which needs all of them in closed form, and the conversion of those chosen are the same pass. On a CPU several
layers are at work at once.
"""

import time
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hf_tc.calibration.capture_attention import CapturedAttention, LayerStream
from hf_tc.config import ConversionConfig
from hf_tc.conversion.checkpoint import ConversionCheckpoint
from hf_tc.conversion.fit_layer import FittedLayer, LayerText, fit_layer
from hf_tc.conversion.side_by_side import run_side_by_side
from hf_tc.conversion.stage_clock import StageClock
from hf_tc.conversion.task import ConversionTask
from hf_tc.data.corrupted_sequences import corrupted_sequences, number_of_corrupted_sequences
from hf_tc.data.token_blocks import after_start
from hf_tc.memory.estimate import blocks_at_once, free_bytes, largest, layer_bytes, text_bytes, widths_of
from hf_tc.memory.free_host_memory import free_host_bytes
from hf_tc.memory.layers_at_once import layers_at_once
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers
from hf_tc.teachers.new_student import mixer_of, teachers_mixer
from hf_tc.teachers.offloading import execution_device


def fit_layers(
    task: ConversionTask,
    settings: ConversionConfig,
    checkpoint: ConversionCheckpoint,
    solved: ConversionCheckpoint | None = None,
) -> None:
    """Solves and aligns every recurrent layer of the student that the checkpoint does not hold yet; on a CPU several at
    once (`layers_at_once`).

    Args:
        settings: the task's, or with less alignment.
        solved: layers in closed form, from the same text; what it holds is not solved again.
    """
    layers = task.student.config.linear_layers
    missing = [layer for layer in layers if not checkpoint.has(layer)]
    steps = settings.alignment.steps + 1  # of one layer: the closed form, then the alignment
    whole, done = steps * len(layers), steps * (len(layers) - len(missing))
    with tqdm(total=whole, initial=done, desc="Calibrating", unit="step", mininterval=1.0) as progress:
        blocks = text_to_align_with(task, settings)
        at_once = _at_once(task, settings, blocks)
        walk = _Walk(task, settings, checkpoint, solved, _streams(task, settings, blocks), missing, progress)
        with task.clock.side_by_side(at_once) as clocks:
            run_side_by_side(lambda index: walk.fit_all(clocks[index], at_once), at_once)


@dataclass
class _Walk:
    """The walk through the teacher, from whose layers one thread after the other takes the next.

    Attributes:
        missing: the layers to fit.
        ahead: those that the streams have not gone through.
    """

    task: ConversionTask
    settings: ConversionConfig
    checkpoint: ConversionCheckpoint
    solved: ConversionCheckpoint | None
    streams: list[LayerStream]
    missing: list[int]
    progress: tqdm

    def __post_init__(self) -> None:
        self.ahead, self.lock = iter(range(max(self.missing, default=-1) + 1)), Lock()

    def fit_all(self, clock: StageClock, at_once: int) -> None:
        """Fits and stores the next layer, as long as there is one; as many threads do so at once."""
        while self._fit_next(clock, at_once):
            pass  # and nothing that was captured of the layer is kept while the next one is

    def _fit_next(self, clock: StageClock, at_once: int) -> bool:
        found = self._next(clock)
        if found is None:
            return False
        layer, text, solved = found
        mixer, seed = mixer_of(self.task.student, layer), self.settings.seed + layer
        start = time.perf_counter()
        fitted = fit_layer(mixer, text, self.settings.alignment, seed, clock, solved=solved, on_step=self._step)
        fitted.row.seconds += (time.perf_counter() - start) / at_once
        self.checkpoint.save(layer, fitted.weights, fitted.row)
        return True

    def _next(self, clock: StageClock) -> tuple[int, LayerText, FittedLayer | None] | None:
        """The next layer to fit, all that is asked of the teacher about it, and what was solved of it. The teacher has
        hooks on it meanwhile, so that only one thread at a time may use it."""
        with self.lock:
            for layer in self.ahead:
                self.progress.set_postfix_str(f"layer {layer}", refresh=False)
                with clock.stage("capture"):
                    if layer in self.missing:
                        captured = [stream.advance_and_capture(layer) for stream in self.streams]
                        solved = _solved(layer, self.solved)
                        return layer, _text(self.task, layer, captured, is_solved=solved is not None), solved
                    for stream in self.streams:
                        stream.advance(layer)
        return None

    def _step(self) -> None:
        with self.progress.get_lock():
            self.progress.update()


def _streams(task: ConversionTask, settings: ConversionConfig, blocks: Tensor) -> list[LayerStream]:
    """The text to align with, and the held-out text, on their way through the teacher."""
    in_host_memory, at_once = not _text_fits(task, settings, blocks), blocks_at_once(blocks.shape[1])
    if execution_device(task.teacher).type == "cpu":
        # As fast there, and a stream begins with a batch through all layers, to see what they are called with.
        at_once = max(1, at_once // 4)
    with task.clock.stage("capture"):
        return [
            LayerStream(task.teacher.base_model, part, at_once, in_host_memory=in_host_memory)
            for part in (blocks, task.held_out_blocks)
        ]


def text_to_align_with(task: ConversionTask, settings: ConversionConfig) -> Tensor:
    """Blocks `[N, T]`: the text and, where layers are aligned, corrupted sequences of it."""
    blocks, start = task.fitted_blocks, task.start
    count, length = blocks.shape
    corrupted = number_of_corrupted_sequences(count, length, settings.alignment.drawn_blocks(length))
    sequences = corrupted_sequences(blocks[:, len(start) :], corrupted, settings.seed)
    return torch.cat([blocks, after_start(sequences, start)])


def load_stage(student: HybridGDNForCausalLM, checkpoint: ConversionCheckpoint, stage: str) -> None:
    """Gives the student the weights that all layers had at a stage, "closed_form", "aligned" or "joint"."""
    for layer in student.config.linear_layers:
        mixer_of(student, layer).load_state_dict(checkpoint.weights(layer, stage))


def _at_once(task: ConversionTask, settings: ConversionConfig, blocks: Tensor) -> int:
    """Layers to fit at once, finished ones counted too: threads of torch's are divided by it, and with as many threads
    a resumed conversion gives the same digits. On a GPU, which one layer keeps busy, one."""
    if execution_device(task.teacher).type != "cpu":
        return 1
    needed = _needed_bytes(task, settings, blocks, on_gpu=False)
    return layers_at_once(len(task.student.config.linear_layers), needed, free_host_bytes())


def _text_fits(task: ConversionTask, settings: ConversionConfig, blocks: Tensor) -> bool:
    """Whether what is captured of a layer, and the work on it, fit beside the weights on the device."""
    free = free_bytes(execution_device(task.teacher))
    return free is None or _needed_bytes(task, settings, blocks, on_gpu=True) <= free


def _needed_bytes(task: ConversionTask, settings: ConversionConfig, blocks: Tensor, *, on_gpu: bool) -> int:
    mixers = (mixer_of(task.student, layer) for layer in task.student.config.linear_layers)
    widths = widths_of(task.teacher, largest(mixers), task.teacher.dtype.itemsize)
    tokens = blocks.numel() + task.held_out_blocks.numel()
    needed = text_bytes(widths, tokens, task.fitted_blocks.numel())
    return needed + layer_bytes(widths, tokens, settings, on_gpu=on_gpu)


def _text(task: ConversionTask, layer: int, captured: list[CapturedAttention], *, is_solved: bool) -> LayerText:
    config = task.student.config
    as_teacher = config.recurrent_qk_norm and config.recurrent_bias
    attention = None if as_teacher or is_solved else teachers_mixer(task.teacher, task.student, layer)
    return LayerText(captured[0], len(task.fitted_blocks), captured[1], _softmax_of(task, layer), attention)


def _solved(layer: int, checkpoint: ConversionCheckpoint | None) -> FittedLayer | None:
    if checkpoint is None or not checkpoint.has(layer):
        return None
    return FittedLayer({"closed_form": checkpoint.weights(layer, "closed_form")}, checkpoint.row(layer))


def _softmax_of(task: ConversionTask, layer: int) -> dict[str, Any]:
    """Scaling and window of the teacher's softmax in a layer. Windows are read off the configuration: attention modules
    of some families have none where they use one, others have one where they use none."""
    attention = find_attention(find_decoder_layers(task.teacher.base_model)[layer])[1]
    config = task.student.config
    sliding = config.teacher_layer_types[layer] == "sliding_attention"
    return {"scaling": attention.scaling, "window": config.teacher_config.sliding_window if sliding else None}
