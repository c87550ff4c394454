# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How much a student was distilled, in its configuration, for its model card."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_tc.modeling import HybridGDNConfig


class TrainingRecord(TrainerCallback):
    """Keeps the tokens and steps of a student's distillations in `config.calibration`, up to date after every step.

    So they are there however the student is saved, in the middle of a run or after it. What earlier runs did is kept.
    """

    def __init__(self, config: HybridGDNConfig) -> None:
        self.config = config
        calibration = config.calibration or {}
        self.before = {name: calibration.get(name) or 0 for name in ("distilled_tokens", "distilled_steps")}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        done = {"distilled_tokens": int(state.num_input_tokens_seen), "distilled_steps": state.global_step}
        total = {name: self.before[name] + count for name, count in done.items()}
        self.config.calibration = {**(self.config.calibration or {}), **total}
