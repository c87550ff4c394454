# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Distillation: the student learns the teacher's next-token distribution end to end, after calibration and
alignment."""

from hf_tc.distillation.config import DistillationConfig
from hf_tc.distillation.trainer import DistillationTrainer

__all__ = ["DistillationConfig", "DistillationTrainer"]
