# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How text and conversations become examples: fields of `DistillationConfig`.

Data with tokens has no need of them, and refuses `repeated_passages`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SHARES_ADD_UP_WITHIN = 1e-3


class Stage(NamedTuple):
    """A part of a training: how many tokens, None for all there are, in sequences of which length."""

    tokens: int | None
    sequence_length: int


@dataclass
class DataSettings:
    """Raises `ValueError` for a value out of range, or stages that cannot be."""

    tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of the text or the conversations in train_dataset to train on, in one epoch; all by "
            "default."
        },
    )
    sequence_length: int = field(default=1024, metadata={"help": "Tokens of a sequence made of text or conversations."})
    curriculum: list[str] | None = field(
        default=None,
        metadata={
            "help": "Stages instead of one sequence_length, TOKENS:LENGTH each, such as 600000:1024 400000:4096; or as "
            "shares of the tokens, 0.6:1024 0.4:4096. A step has as many tokens in each: a row of the longest length "
            "is several of a shorter one."
        },
    )
    packing: bool = field(
        default=True,
        metadata={"help": "Several documents in a sequence, which do not see each other; else each one by itself."},
    )
    assistant_only_loss: bool = field(
        default=True,
        metadata={"help": "Of conversations learn what the assistant says; else all tokens."},
    )
    repeated_passages: float = field(
        default=0.0,
        metadata={
            "help": "Share in [0, 1] of the sequences in which passages of a text, of 16 tokens or more, come twice, "
            "so that looking back is learned too; up to half of their text is not used. Conversations stay as they are."
        },
    )

    @property
    def row_length(self) -> int:
        """Tokens of a row of training data: of the longest stage."""
        return max(stage.sequence_length for stage in self.stages)

    @property
    def stages(self) -> list[Stage]:
        """The stages of a training, at least one."""
        if not self.curriculum:
            return [Stage(self.tokens, self.sequence_length)]
        parts = [_amount_and_length(stage) for stage in self.curriculum]
        whole = (self.tokens or 0) if all(amount <= 1 for amount, _ in parts) else 1
        return [Stage(round(amount * whole), length) for amount, length in parts]

    def check_data_settings(self) -> None:
        """Raises `ValueError` for what the class says; also brings stages to the form that is saved."""
        if self.sequence_length < 2:
            raise ValueError(
                f"sequence_length is {self.sequence_length}; a sequence needs at least 2 tokens, one to predict from "
                "another."
            )
        if not 0.0 <= self.repeated_passages <= 1.0:
            raise ValueError(
                f"repeated_passages is {self.repeated_passages}; it is a share of the sequences and must lie in "
                "[0, 1]. Use 0 for none."
            )
        if self.curriculum:
            self.curriculum = [_as_text(stage) for stage in self.curriculum]
            self._check_curriculum()
        if self.tokens is not None and self.tokens < self.row_length:
            raise ValueError(
                f"tokens is {self.tokens}, below one sequence of {self.row_length}. Raise the one or lower the other."
            )

    def _check_curriculum(self) -> None:
        amounts, lengths = zip(*map(_amount_and_length, self.curriculum or ()), strict=True)
        longest, total = max(lengths), math.fsum(amounts)
        for length in lengths:
            if longest % length:
                raise ValueError(
                    f"curriculum has sequences of {length} and {longest} tokens; each length must divide the longest. "
                    "Use powers of two."
                )
        if not self.packing:
            raise ValueError("curriculum needs rows of equal length, which packing=False does not give. Leave it on.")
        if all(amount <= 1 for amount in amounts):
            if self.tokens is None:
                raise ValueError("curriculum has shares, and tokens is not set. Set it, or give tokens in each stage.")
            if abs(total - 1) > SHARES_ADD_UP_WITHIN:
                raise ValueError(f"The shares of curriculum add up to {total:g}; they must add up to 1.")
        elif self.tokens is not None and self.tokens != round(total):
            raise ValueError(
                f"The stages of curriculum have {total:,.0f} tokens together, and tokens is {self.tokens:,}. Leave "
                "tokens out, or give shares."
            )
        for stage in self.stages:
            if (stage.tokens or 0) < longest:
                raise ValueError(
                    f"A stage of curriculum has {stage.tokens} tokens, below one row of {longest}. Give it more, or "
                    "leave it out."
                )


def _as_text(stage: Any) -> str:
    if isinstance(stage, str):
        return stage
    try:
        tokens, length = (stage["tokens"], stage["sequence_length"]) if isinstance(stage, Mapping) else stage
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"curriculum has the stage {stage!r}; give 'TOKENS:LENGTH', a pair, or a mapping with tokens and "
            "sequence_length."
        ) from error
    return f"{tokens}:{length}"


def _amount_and_length(stage: str) -> tuple[float, int]:
    amount, _, length = stage.partition(":")
    try:
        found = float(amount), int(length)
    except ValueError as error:
        raise ValueError(
            f"curriculum has the stage {stage!r}; it must be TOKENS:LENGTH, such as 600000:1024 or 0.6:1024."
        ) from error
    if not (found[0] > 0 and math.isfinite(found[0]) and found[1] >= 2):
        raise ValueError(f"curriculum has the stage {stage!r}; it needs tokens, and sequences of at least 2.")
    return found
