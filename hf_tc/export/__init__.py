# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Students as checkpoints of an architecture that engines know, see `hf_tc.export.export`."""

# Formats, and who reads them.
FORMATS = {"qwen3_5": "Transformers, vLLM", "mlx": "mlx-lm", "gguf": "llama.cpp"}
