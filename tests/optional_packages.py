# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tests that need an extra of hf_tc: skipped where its packages are missing, but in CI, where that is a failure."""

import importlib.util
import os

import pytest


def needs_extra(extra: str, *packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    skipped = bool(missing) and os.environ.get("CI") != "true"
    return pytest.mark.skipif(skipped, reason=f"not installed: {', '.join(missing)} (extra '{extra}')")
