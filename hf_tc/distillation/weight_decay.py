# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Weight decay that does not change how fast a recurrent layer forgets.

Transformers decays every parameter whose name has no "bias" and no "norm" in it, also `A_log` and short convolutions of
its own recurrent models, and asks no attribute of the model (releases 5.15 to 5.24). Decay pulls `A_log` to 0, where a
head forgets within tokens, and a convolution from the identity to nothing: neither makes it simpler.
"""

from __future__ import annotations

import re

from torch import nn

# Ours, what the library calls the same in its own recurrent models, and norms with a number (hyperclovax: post_norm1).
UNDECAYED = re.compile(r"(?:^|\.)(?:A_log|dt_bias|short_conv|conv1d|\w*norm\d*)(?:\.|$)")


class UndecayedMemoryMixin:
    """Put before `Trainer` or a subclass of it: `class MyTrainer(UndecayedMemoryMixin, Trainer)`."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The names that the trainer would decay, without those of `UNDECAYED`."""
        names = super().get_decay_parameter_names(model)  # type: ignore[misc]  # Trainer's
        return [name for name in names if not UNDECAYED.search(name)]
