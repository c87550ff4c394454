# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a conversion has in common with the choice of its layers: teacher, text, and one student around the teacher."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tc.alignment.joint import check_can_align_jointly
from hf_tc.alignment.joint_progress import progress_bytes
from hf_tc.config import ConversionConfig
from hf_tc.conversion.checkpoint import ConversionCheckpoint
from hf_tc.conversion.fit_layer import WAY_OF_FITTING
from hf_tc.conversion.stage_clock import StageClock
from hf_tc.data.token_blocks import shared_start
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.modeling.teacher_attention import find_decoder_layers
from hf_tc.resume.fingerprint import fingerprint
from hf_tc.resume.unfinished_work import check_free_space
from hf_tc.teachers.new_student import build_student, make_recurrent, mixer_of
from hf_tc.teachers.offloading import execution_device, stored_weights


@dataclass
class ConversionTask:
    """A teacher to convert.

    Args:
        teacher: in eval mode; it is only read.
        blocks: calibration tokens `[N, T]`, the held-out ones last.
        folder: where finished layers are kept, see `ConversionCheckpoint`.
        share_weights: the student's retained part uses the teacher's storage.

    Raises:
        ValueError: joint alignment is asked for, and the teacher is spread over devices, offloaded or in 8 bits.
    """

    teacher: PreTrainedModel
    blocks: Tensor
    settings: ConversionConfig
    folder: Path
    share_weights: bool = False
    clock: StageClock = field(default_factory=StageClock)

    def __post_init__(self) -> None:
        if self.settings.joint.steps:
            check_can_align_jointly(self.teacher)

    @property
    def num_layers(self) -> int:
        return len(find_decoder_layers(self.teacher.base_model))

    @property
    def fitted_blocks(self) -> Tensor:
        """The blocks that layers are fitted to."""
        return self.blocks[: -self._held_out]

    @property
    def held_out_blocks(self) -> Tensor:
        """The blocks that no fit sees."""
        return self.blocks[-self._held_out :]

    @property
    def start(self) -> Tensor:
        """What every block begins with, `[P]`: bos, or nothing."""
        return shared_start(self.blocks)

    @property
    def _held_out(self) -> int:
        return max(1, round(self.settings.held_out_fraction * len(self.blocks)))

    @cached_property
    def student(self) -> HybridGDNForCausalLM:
        """The student, built when it is first asked for, with the attention of all layers until `make_recurrent`."""
        with self.clock.stage("build"):
            options = self.settings.mixer.fields(self.teacher.config)
            return build_student(self.teacher, config_kwargs=options, share_weights=self.share_weights)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the layers depend on beside the settings, JSON-able: teacher and text by their fingerprints."""
        with self.clock.stage("fingerprint"):
            return {
                "teacher": fingerprint(tensor for _, tensor in stored_weights(self.teacher)),
                "teacher_config": self.teacher.config.to_diff_dict(),
                "blocks": fingerprint([self.blocks]),
                "device": execution_device(self.teacher).type,
                "versions": {name: version(name) for name in ("hf_tc", "torch", "transformers")},
                "way_of_fitting": WAY_OF_FITTING,
            }

    def record(self, retained: Iterable[int], settings: ConversionConfig) -> dict[str, Any]:
        """Everything that the layers of a conversion depend on."""
        return {"settings": settings.record(), "retained_layers": list(retained), **self.identity}

    def make_recurrent(self, layers: Iterable[int]) -> dict[int, tuple[str, nn.Module]]:
        """`make_recurrent` of the student, from the seed."""
        device = execution_device(self.teacher)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.settings.seed)  # new gates start at random
            return make_recurrent(self.student, layers)

    def checkpoint(self, folder: Path, settings: ConversionConfig) -> ConversionCheckpoint:
        """Finished layers of the student as it is now, in a folder that has room for all of them.

        Raises:
            ValueError: too little room, or the folder belongs to a conversion with other arguments.
        """
        config = self.student.config
        mixers = [mixer_of(self.student, layer) for layer in config.linear_layers]
        # Every layer at each stage, and then the student, which is usually saved beside them.
        needed = settings.stages * sum(map(_size, mixers)) + _size(self.student)
        if settings.stages == 3:
            needed += progress_bytes(sum(parameter.numel() for mixer in mixers for parameter in mixer.parameters()))
        check_free_space(folder, needed)
        return ConversionCheckpoint(folder, self.record(config.retained_layers, settings))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
