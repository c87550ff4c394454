# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a conversion is to do, whatever the teacher."""

from dataclasses import dataclass, field, replace
from typing import Any

LAYER_POLICIES = ("uniform", "bypass", "greedy", "kl")  # by which a share of layers becomes layers
DEFAULT_POLICY = "kl"


@dataclass(frozen=True)
class AlignmentConfig:
    """Budget and step sizes of the alignment of one layer.

    Attributes:
        steps: optimiser steps; 0 keeps the closed form.
        batch_tokens: tokens of a minibatch, rounded to whole blocks; one block at least.
        gate_learning_rate: of what the teacher does not have (gates, decay, convolution, norm).
        teacher_learning_rate: of the projections and norms that came from the teacher.
    """

    steps: int = 1200
    batch_tokens: int = 2048
    gate_learning_rate: float = 9e-3
    teacher_learning_rate: float = 3e-3
    warmup_ratio: float = 0.05
    gradient_clip: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"alignment_steps is {self.steps}; it must be 0 (closed form alone) or more.")

    def batch_blocks(self, length: int) -> int:
        """Blocks of that many tokens in a minibatch."""
        return max(1, round(self.batch_tokens / length))

    def step_tokens(self, length: int) -> int:
        """Tokens of a minibatch of such blocks."""
        return self.batch_blocks(length) * length


def joint_settings(steps: int) -> AlignmentConfig:
    """Phase 3 with its step sizes, smaller than those of a single layer: errors of one layer reach all above it."""
    if steps < 0:
        raise ValueError(f"joint_steps is {steps}; it must be 0 (no joint alignment) or more.")
    return AlignmentConfig(steps, batch_tokens=8192, gate_learning_rate=2e-3, teacher_learning_rate=6e-4)


@dataclass(frozen=True)
class ConversionConfig:
    """How much text, in what pieces, and what is made of it.

    Attributes:
        calibration_tokens: tokens of text to calibrate on, held-out ones included.
        sequence_length: tokens of a calibration block; heads cannot be seen to look further.
        held_out_fraction: share of the blocks that no fit sees; it decides what is kept. At least one block.
        alignment: budget of phase 2.
        joint: budget of phase 3; none by default.
        student_options: fields of `HybridGDNConfig` that shape the recurrent layers.
    """

    calibration_tokens: int = 65_536
    sequence_length: int = 1024
    held_out_fraction: float = 0.0625
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    joint: AlignmentConfig = field(default_factory=lambda: joint_settings(0))
    student_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sequence_length < 2:
            raise ValueError(
                f"sequence_length is {self.sequence_length}; a block needs at least 2 tokens, one to predict from "
                "another."
            )
        if self.calibration_tokens < 2 * self.sequence_length:
            raise ValueError(
                f"calibration_tokens is {self.calibration_tokens}; at least two blocks of sequence_length "
                f"{self.sequence_length} are needed, one to fit and one held out. Raise it or shorten the blocks."
            )

    @property
    def stages(self) -> int:
        """How many stages of a layer are kept: closed form, aligned, and jointly aligned where asked for."""
        return 3 if self.joint.steps else 2

    def closed_form_alone(self) -> "ConversionConfig":
        """The same without alignment."""
        return replace(self, alignment=AlignmentConfig(steps=0), joint=joint_settings(0))
