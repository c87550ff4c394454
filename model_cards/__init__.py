# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The text of model cards; see template.md."""
