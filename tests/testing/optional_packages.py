# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tests that need an extra of hf_tc: skipped where its packages are missing, but in CI, where that is a failure."""

import importlib.util
import os

import peft
import pytest
from packaging.version import Version
from transformers.integrations.peft import MIN_PEFT_VERSION


def needs_extra(extra: str, *packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    skipped = bool(missing) and os.environ.get("CI") != "true"
    return pytest.mark.skipif(skipped, reason=f"not installed: {', '.join(missing)} (extra '{extra}')")


# Of `add_adapter`, Transformers' own way to an adapter; PEFT's does without.
NEEDS_A_NEWER_PEFT = pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"this Transformers adds adapters by PEFT {MIN_PEFT_VERSION} or later, the newest released is older",
)
