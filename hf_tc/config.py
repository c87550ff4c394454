# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a conversion is to do, whatever the teacher: one tree of settings.

A field with a help text, in its metadata as in the library's `TrainingArguments`, is an option of `from_teacher`,
`select_layers`, `plan_conversion` and the command line, see `hf_tc.options`. "name" is what it is called there, where
its part of the tree is not named beside it; "choices" are those of the command line.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hf_tc.selection import LayerSelection

if TYPE_CHECKING:
    import torch

# How a share of layers becomes a list of them.
LAYER_POLICIES = ("uniform", "bypass", "greedy", "kl", "restore", "recall")
DEFAULT_POLICY = "restore"
# What recurrent layers compute: as in `hf_tc.modeling.gated_deltanet`, or as in Transformers' Qwen3.5.
MIXER_FORMS = ("gdn", "qwen3_5")
# What of a student trains in a distillation; `hf_tc.distillation.trained_parts` says what each is.
TRAINS = ("all", "mixers", "mixers_and_norms", "attention_too", "lora")
STEP_TOKENS = 2048  # of a minibatch of the alignment of one layer
JOINT_STEPS = 1500  # of all layers together, where nothing else is asked for and a GPU has room


@dataclass(frozen=True)
class SelectionConfig:
    """Which layers keep softmax attention."""

    retained_layers: float | Sequence[int] | LayerSelection = field(
        default=0.25,
        metadata={"help": "share of layers that keep attention, their indices, or an earlier selection"},
    )
    layer_policy: str | None = field(
        default=None,
        metadata={"help": f"which layers a share retains (default: {DEFAULT_POLICY})", "choices": LAYER_POLICIES},
    )

    def __post_init__(self) -> None:
        retained, policy = self.retained_layers, self.layer_policy
        if policy is not None and policy not in LAYER_POLICIES:
            raise ValueError(f"layer_policy is {policy!r}; it must be one of {', '.join(LAYER_POLICIES)}.")
        if isinstance(retained, str):
            raise ValueError(f"retained_layers is {retained!r}; give a share or a list, and a policy as layer_policy.")
        if isinstance(retained, int | float):
            check_share(retained)
        elif policy is not None:
            raise ValueError(
                f"layer_policy is {policy!r} and retained_layers names the layers already. Give a share, or leave "
                "layer_policy out."
            )


def check_share(share: float) -> None:
    """Raises `ValueError` for a share of layers outside [0, 1]."""
    if not 0.0 <= share <= 1.0:
        raise ValueError(
            f"retained_layers is {share}; a share must lie in [0, 1]. Give a list, such as [0, 4, 8], for indices."
        )


@dataclass(frozen=True)
class AlignmentConfig:
    """Budget and step sizes of the alignment of one layer, phase 2.

    Attributes:
        batch_tokens: tokens of a minibatch, rounded to whole blocks; one block at least.
        gate_learning_rate: of what the teacher does not have (gates, decay, convolution, norm).
        teacher_step: of the projections and norms that came from the teacher, as a share of their size; see
            `alignment.step_sizes` for both.
    """

    steps: int = field(
        default=1200,
        metadata={
            "name": "alignment_steps",
            "help": f"gradient steps per layer, of {STEP_TOKENS:,} tokens or one longer block; 0: closed form",
        },
    )
    batch_tokens: int = STEP_TOKENS
    gate_learning_rate: float = 2e-3
    teacher_step: float = 1.6e-2
    warmup_ratio: float = 0.05
    gradient_clip: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"alignment_steps is {self.steps}; it must be 0 (closed form alone) or more.")

    def batch_blocks(self, length: int) -> int:
        """Blocks of that many tokens in a minibatch."""
        return max(1, round(self.batch_tokens / length))

    def drawn_blocks(self, length: int) -> int:
        """Blocks of that many tokens in all minibatches together."""
        return self.steps * self.batch_blocks(length)

    def step_tokens(self, length: int) -> int:
        """Tokens of a minibatch of such blocks."""
        return self.batch_blocks(length) * length


@dataclass(frozen=True)
class JointConfig:
    """Phase 3, all layers together, in smaller steps, since errors of a layer reach all above it.

    Attributes as in `AlignmentConfig`; without steps, how many there are depends on where the teacher is.
    """

    steps: int | None = field(
        default=None,
        metadata={
            "name": "joint_steps",
            "help": f"further steps of all recurrent layers together (default: {JOINT_STEPS:,} on a GPU with room "
            "for them, none elsewhere)",
        },
    )
    batch_tokens: int = 8192
    gate_learning_rate: float = 1.5e-3
    teacher_step: float = 5e-3

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 0:
            raise ValueError(f"joint_steps is {self.steps}; it must be 0 (no joint alignment) or more.")

    def budget(self, has_room: bool) -> AlignmentConfig:
        """Steps and step sizes, where it is known whether the teacher is on a GPU with room for joint alignment."""
        steps = JOINT_STEPS * has_room if self.steps is None else self.steps
        return AlignmentConfig(steps, self.batch_tokens, self.gate_learning_rate, self.teacher_step)


@dataclass(frozen=True)
class MixerConfig:
    """What the recurrent layers are; `fields` gives those of `HybridGDNConfig`."""

    form: str = field(
        default="gdn",
        metadata={
            "name": "mixer_form",
            "help": "of the recurrent layers: hf_tc's own, or Qwen3.5's, which `hf-tc export` needs",
            "choices": MIXER_FORMS,
        },
    )
    recurrent_rope: bool = field(default=True, metadata={"help": "recurrent layers rotate q and k as the teacher does"})
    conv_kernel_size: int = field(default=4, metadata={"help": "of the convolution over q, k and v; 0: none"})
    output_norm: bool = field(default=False, metadata={"help": "norm each head's output before the output gate"})

    def __post_init__(self) -> None:
        if self.form not in MIXER_FORMS:
            raise ValueError(f"mixer_form is {self.form!r}; it must be one of {', '.join(MIXER_FORMS)}.")
        if self.form == "qwen3_5" and self.conv_kernel_size < 2:
            raise ValueError(
                f"mixer_form is 'qwen3_5' and conv_kernel_size {self.conv_kernel_size}; that form has a convolution. "
                "Give 2 or more."
            )

    def fields(self, text_config: Any) -> dict[str, Any]:
        """Fields of `HybridGDNConfig` for the recurrent layers of a teacher with this configuration."""
        chosen = {"conv_kernel_size": self.conv_kernel_size}
        if self.form == "gdn":
            return chosen | {
                "recurrent_rope": self.recurrent_rope,
                "output_norm": self.output_norm,
                "first_token_value": not self.output_norm,  # a norm gives first tokens their size by itself
            }
        return chosen | {
            "recurrent_rope": False,
            "output_norm": True,
            "output_norm_eps": getattr(text_config, "rms_norm_eps", 1e-6),  # there one number for all norms
            "conv_activation": "silu",
            "recurrent_bias": False,
            "recurrent_qk_norm": False,
            "first_token_value": False,
        }


@dataclass(frozen=True)
class LoadingConfig:
    """How the teacher is loaded, and whether it is taken."""

    device: "str | torch.device | None" = field(
        default=None, metadata={"help": "cpu, cuda, cuda:1, ... (default: cuda if there is one)"}
    )
    device_map: "str | dict[str, Any] | None" = field(
        default=None,
        metadata={
            "help": "spread a teacher that does not fit over GPUs, host memory and disk",
            "choices": ("auto", "balanced", "sequential"),
        },
    )
    dtype: "str | torch.dtype" = field(
        default="auto",
        metadata={
            "help": "of the teacher and the student; auto: as the teacher is stored",
            "choices": ("auto", "float32", "bfloat16"),
        },
    )
    allow_unreviewed: bool = field(default=False, metadata={"help": "convert a family that was not reviewed"})
    merge_adapter: bool = field(
        default=False, metadata={"help": "the teacher is a PEFT adapter; merge it into its base model"}
    )


@dataclass(frozen=True)
class ConversionConfig:
    """All settings of a conversion.

    Attributes:
        held_out_fraction: share of the blocks that no fit sees; it decides what is kept. At least one block.
    """

    selection: SelectionConfig = field(default_factory=SelectionConfig, kw_only=True)
    calibration_tokens: int = field(
        default=65_536, metadata={"help": "tokens of text to calibrate on, held-out ones included"}
    )
    # Heads cannot be seen to look further than a block.
    sequence_length: int = field(
        default=1024, metadata={"help": "tokens per block, no more than the positions of the teacher"}
    )
    held_out_fraction: float = 0.0625
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    mixer: MixerConfig = field(default_factory=MixerConfig)
    seed: int = field(default=0, metadata={"help": "of all that is random"})
    loading: LoadingConfig = field(default_factory=LoadingConfig)

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
        """How many stages of a layer are kept at most: closed form, aligned, jointly aligned."""
        return 2 if self.joint.steps == 0 else 3

    def closed_form_alone(self) -> "ConversionConfig":
        """The same without alignment."""
        return replace(self, alignment=AlignmentConfig(steps=0), joint=JointConfig(0))

    def record(self) -> dict[str, Any]:
        """What the layers of a student depend on beside teacher and text, JSON-able; not what is done with all of them
        afterwards."""
        others = ("selection", "joint", "loading")
        return asdict(self, dict_factory=lambda items: {k: v for k, v in items if k not in others})
