# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Weight decay that closes no gate of a recurrent layer and does not change how fast it forgets.

Transformers decays every parameter whose name has no "bias" and no "norm" in it, also `A_log` and short convolutions of
its own recurrent models, and asks no attribute of the model (releases 5.15 to 5.24). Decay pulls `A_log` to 0, where a
head forgets within tokens, a convolution from the identity to nothing, `a_proj` and `b_proj` to where all tokens are
forgotten and written alike, and the output gate `g_proj` to where a layer is silent: none of it makes them simpler. Nor
does a first token without its value.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from hf_tc.modeling import GatedDeltaNet

# Ours, what the library calls the same in its own recurrent models, and norms with a number (hyperclovax: post_norm1).
UNDECAYED = re.compile(r"(?:^|\.)(?:A_log|dt_bias|first_token_weight|[abg]_proj|short_conv|conv1d|\w*norm\d*)(?:\.|$)")


class UndecayedMemoryMixin:
    """For models of others too, put before `Trainer`: `class MyTrainer(UndecayedMemoryMixin, Trainer)`."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The names that the trainer would decay, without those of `UNDECAYED`."""
        return _decayed(super().get_decay_parameter_names(model))  # type: ignore[misc]  # Trainer's


def spare_what_forgets(trainer_class: Any) -> None:
    """Has `Trainer`, and so whatever is derived from it, leave out `UNDECAYED` of students, and of no other model.

    The one change that hf_tc makes to a class of the library; `hf_tc.hub.registration` makes it once Trainer is
    imported, since the library gives a model no say in what decays.
    """
    all_names = trainer_class.get_decay_parameter_names

    @functools.wraps(all_names)
    def get_decay_parameter_names(self: Any, model: nn.Module) -> list[str]:
        names = all_names(self, model)
        if not any(isinstance(module, GatedDeltaNet) for module in model.modules()):
            return list(names)
        return _decayed(names)

    trainer_class.get_decay_parameter_names = get_decay_parameter_names


def _decayed(names: Iterable[str]) -> list[str]:
    return [name for name in names if not UNDECAYED.search(name)]
