# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Teacher families by `model_type`, as data: what a recurrent layer carries of their attention, and what it cannot."""

REVIEWED_FAMILIES = {
    "llama": "biases and RoPE (llama3, yarn, ...) carried",
    "mistral": "RoPE carried; a sliding window becomes the decay",
    "qwen2": "q/k/v biases and RoPE carried; a sliding window becomes the decay",
    "qwen3": "q/k norms and RoPE carried; a sliding window becomes the decay",
    "qwen3_moe": "q/k norms and RoPE carried; experts and router are the family's own",
}

REFUSED_FAMILIES: dict[str, str] = {}
