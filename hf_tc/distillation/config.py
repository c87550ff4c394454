# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Arguments of a distillation run: `transformers.TrainingArguments` and our own."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, field
from typing import get_args

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_xla_available

from hf_tc.config import TRAINS
from hf_tc.distillation.config_checks import check_no_text, check_numbers, check_packages, check_settings_have_effect
from hf_tc.distillation.data_settings import DataSettings
from hf_tc.evaluation.kd_loss import Divergence, Objective
from hf_tc.teachers.devices import check_devices

# Settings with which a GPU's memory may suffice.
_EVALUATION = "a smaller per_device_eval_batch_size or shorter examples"
LESS_MEMORY_IN_EVALUATION = f"Set {_EVALUATION}."
LESS_MEMORY_IN_TRAINING = (
    "Set a smaller per_device_train_batch_size, gradient_checkpointing=True or shorter examples; in an evaluation, "
    f"{_EVALUATION}."
)


@dataclass
class DistillationConfig(DataSettings, TrainingArguments):
    """`TrainingArguments` plus the shape of the distillation loss, what trains how fast, and how text becomes examples.

    `learning_rate` is that of what came from the teacher, and of all else without a `gate_learning_rate`. Both follow
    the schedule. With a `curriculum` examples are taken in their order, which is shuffled inside each stage.

    Use `bf16=True` for speed on a GPU: weights stay fp32, only the computation is bf16.

    Raises:
        ValueError: a value out of range, a setting that another one puts out of use, a device or a tracker that there
            is not, or an option of `TrainingArguments` that distillation cannot honour.
        ImportError: a setting needs a package that is not installed.
    """

    temperature: float = field(
        default=1.0,
        metadata={"help": "Both distributions are softened by this temperature; the loss is scaled by its square."},
    )
    ce_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight in [0, 1] of cross-entropy with the text in the loss; the rest is KL to the teacher."
        },
    )
    divergence: Divergence = field(
        default="forward_kl",
        metadata={
            "help": "What is brought down between teacher and student: forward_kl covers all that the teacher does, "
            "reverse_kl keeps to its main choices, jsd lies between them."
        },
    )
    jsd_beta: float = field(
        default=0.5,
        metadata={"help": "Weight, between 0 and 1, of the teacher in a jsd: it leans to forward_kl near 0."},
    )
    layer_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the outputs of recurrent layers in the loss: their squared distance from the teacher's "
            "attention at the same layers, over its square."
        },
    )
    distribution_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of KL and cross-entropy in the loss; 0 trains on layer_weight's term alone, without logits."
        },
    )
    cross_entropy_share: float | None = field(
        default=None, metadata={"help": "The old name of ce_weight, which goes with hf_tc 0.2."}
    )
    chunk_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens whose logits exist at the same time; memory is 28 to 32 bytes x chunk_tokens x vocabulary, "
            "48 with a jsd, 14 with forward KL on a GPU. By default as many as 4 GB hold of the first, or "
            "the pieces of TRL's kernels where they are installed and fit."
        },
    )

    teacher_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder that hf-tc cache-teacher wrote: its text is learned from the predictions in it, without a "
            "teacher. Text given beside it must be the same, in blocks of its length."
        },
    )

    teacher_device_map: str | None = field(
        default=None,
        metadata={
            "help": "Where a teacher given by name goes, if not beside the student: another device (cuda:1, cpu), or "
            "auto, over all there are and host memory."
        },
    )
    teacher_in_8bit: bool = field(
        default=False,
        metadata={"help": "Loads a teacher given by name in 8 bits (bitsandbytes), in a quarter of float32's memory."},
    )

    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Off: a loss that is NaN or infinite stops the run and is not logged as another number."},
    )
    trains: str = field(
        default="all",
        metadata={
            "help": "What trains: all, as the model comes; mixers, those of recurrent layers; mixers_and_norms; "
            "attention_too, that of retained layers as well; lora: adapters of linear layers, and whole what is new in "
            "recurrent layers.",
            "choices": TRAINS,
        },
    )
    gate_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of what the teacher does not have: gates, decay, convolution and norm of recurrent "
            "layers. As learning_rate by default."
        },
    )

    # Not `str | bool`, which a command line reads as a yes or no.
    include_num_input_tokens_seen: str = field(
        default="all",
        metadata={"help": "Which tokens are counted: all, non_padding or no. A student's model card tells them."},
    )

    def __post_init__(self) -> None:
        check_no_text(self)
        if self.teacher_cache is not None and self.curriculum:
            raise ValueError(
                f"curriculum is {self.curriculum}, and teacher_cache has blocks of one length. Leave curriculum out, "
                "or the recipe long, which sets it; or train beside the teacher."
            )
        if self.teacher_cache is not None and self.repeated_passages:
            raise ValueError(
                f"repeated_passages is {self.repeated_passages}, and the predictions of teacher_cache are of its text "
                "as it is. Leave repeated_passages out, or train beside the teacher."
            )
        self.check_data_settings()
        if self.curriculum:
            self.train_sampling_strategy = "sequential"
        if "LOCAL_RANK" in os.environ and not (torch.accelerator.is_available() or is_torch_xla_available()):
            self.use_cpu = True  # without being told so, the library lets each of torchrun's processes train alone
        super().__post_init__()
        check_numbers(self)
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature is {self.temperature}; it must be a number above 0. Use 1.0 for plain KL.")
        if self.cross_entropy_share is not None:
            note = "cross_entropy_share is now ce_weight; the old name goes with hf_tc 0.2."
            warnings.warn(note, FutureWarning, stacklevel=3)
            self.ce_weight, self.cross_entropy_share = self.cross_entropy_share, None
        if not 0.0 <= self.ce_weight <= 1.0:
            raise ValueError(
                f"ce_weight is {self.ce_weight}; it must lie in [0, 1]. Use 0 for KL alone, 1 for cross-entropy alone."
            )
        if self.divergence not in get_args(Divergence):
            raise ValueError(f"divergence is {self.divergence!r}; it must be one of {', '.join(get_args(Divergence))}.")
        if not 0.0 < self.jsd_beta < 1.0:
            raise ValueError(
                f"jsd_beta is {self.jsd_beta}; it must lie between 0 and 1. For the ends, set divergence to forward_kl "
                "or reverse_kl."
            )
        self._check_weights_of_terms()
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens is {self.chunk_tokens}; it must be at least 1, or None for the default.")
        if self.trains not in TRAINS:
            raise ValueError(f"trains is {self.trains!r}; it must be one of {', '.join(TRAINS)}.")
        rate = self.gate_learning_rate
        if rate is not None and not (math.isfinite(rate) and rate >= 0):
            raise ValueError(f"gate_learning_rate is {rate}; it must be 0 or more, or None for learning_rate.")
        check_devices("teacher_device_map", self.teacher_device_map)
        check_settings_have_effect(self)
        self._check_library_options()
        check_packages(self)

    @property
    def objective(self) -> Objective:
        return Objective(self.temperature, self.ce_weight, self.divergence, self.jsd_beta)

    def _check_weights_of_terms(self) -> None:
        for name in ("layer_weight", "distribution_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be a number of 0 or more. Use 0 to leave the term out.")
        if self.layer_weight == self.distribution_weight == 0:
            raise ValueError("layer_weight and distribution_weight are 0, which leaves no loss. Set one of them.")
        if self.distribution_weight == 0 and self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = True  # what comes after the last recurrent layer has no gradient

    def _check_library_options(self) -> None:
        if self.label_smoothing_factor != 0:
            raise ValueError(
                f"label_smoothing_factor is {self.label_smoothing_factor}; the teacher's distribution is already soft, "
                "so distillation has none. Leave it at 0; raise `temperature` for softer targets."
            )
        if self.torch_compile:
            raise ValueError(
                "torch_compile=True compiles the student's forward, which distillation runs in two parts. Leave it off "
                "and call student.model.compile() if you want the backbone compiled."
            )
        if self.logging_nan_inf_filter:
            raise ValueError(
                "logging_nan_inf_filter=True would log a loss that is NaN or infinite as the mean of earlier ones. "
                "Leave it off; such a loss stops the run."
            )
        for name in ("bf16_full_eval", "fp16_full_eval"):
            if getattr(self, name):
                raise ValueError(
                    f"{name}=True casts the student's weights for good, and training continues on them. Leave it off; "
                    "bf16=True (--bf16) evaluates in bf16 too."
                )
