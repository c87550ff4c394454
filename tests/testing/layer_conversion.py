# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A conversion of a tiny teacher on random blocks, layer by layer, and its interruption."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import letter_teacher
from planted import random_blocks

from hf_tc.config import AlignmentConfig, ConversionConfig
from hf_tc.conversion import fit_layer, run
from hf_tc.conversion.task import ConversionTask
from hf_tc.modeling import HybridGDNForCausalLM
from hf_tc.selection import LayerSelection

BLOCKS = random_blocks(8, 32)


def settings(steps: int = 2, **changes: Any) -> ConversionConfig:
    return ConversionConfig(
        calibration_tokens=256,
        sequence_length=32,
        alignment=AlignmentConfig(steps=steps, batch_tokens=64),
        **changes,
    )


def convert(
    folder: Path, retained: tuple[int, ...] = (0,), *, steps: int = 2, blocks: torch.Tensor = BLOCKS, **changes: Any
) -> HybridGDNForCausalLM:
    share_weights, evaluation = changes.pop("share_weights", False), changes.pop("evaluation_blocks", None)
    teacher = changes.pop("teacher", None) or letter_teacher()
    task = ConversionTask(teacher, blocks, settings(steps, **changes), folder, share_weights)
    return run.convert(task, LayerSelection("list", list(retained)), evaluation)


class Interrupted(Exception):
    pass


def interrupt_at_layer(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Makes the alignment of the layer with this number (0: the first converted) die, once.

    Returns the numbers of the alignments begun, which grows as they are.
    """
    calls: list[int] = []
    align = fit_layer.align_layer

    def dying(*args: Any, **kwargs: Any) -> float:
        calls.append(len(calls))
        if len(calls) == number + 1:
            raise Interrupted
        return align(*args, **kwargs)

    monkeypatch.setattr(fit_layer, "align_layer", dying)
    return calls
