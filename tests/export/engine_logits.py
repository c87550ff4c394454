# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Run by the Python of another engine: its logits and greedy tokens of an exported student, as JSON on stdout.

    PYTHON engine_logits.py mlx FOLDER '[[3, 4, 5]]' NEW_TOKENS
    PYTHON engine_logits.py gguf FILE.gguf '[[3, 4, 5]]' NEW_TOKENS

Logits of every token of each row, then NEW_TOKENS greedy tokens after it, read through the engine's own cache.
"""

import json
import sys
from pathlib import Path
from typing import Any


def of_mlx(path: str, rows: list[list[int]], new_tokens: int) -> list[dict[str, Any]]:
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(path))
    answers = []
    for row in rows:
        logits = model(mx.array([row]))[0].astype(mx.float32)
        cache, ids, tokens = make_prompt_cache(model), row, []
        for _ in range(new_tokens):
            step = model(mx.array([ids]), cache=cache)[0, -1]
            ids = [int(mx.argmax(step))]
            tokens += ids
        answers.append({"logits": logits.tolist(), "tokens": tokens})
    return answers


def of_gguf(path: str, rows: list[list[int]], new_tokens: int) -> list[dict[str, Any]]:
    from llama_cpp import GGML_TYPE_F32, Llama

    answers = []
    for row in rows:
        precise = {"type_k": GGML_TYPE_F32, "type_v": GGML_TYPE_F32, "flash_attn": False}
        model = Llama(path, n_ctx=512, logits_all=True, verbose=False, **precise)
        model.eval(row)
        logits = model.scores[: len(row)].tolist()
        tokens = []
        for _ in range(new_tokens):
            tokens.append(int(model.scores[model.n_tokens - 1].argmax()))
            model.eval(tokens[-1:])
        answers.append({"logits": logits, "tokens": tokens})
    return answers


if __name__ == "__main__":
    engine, path, rows, new_tokens = sys.argv[1:]
    print(json.dumps({"mlx": of_mlx, "gguf": of_gguf}[engine](path, json.loads(rows), int(new_tokens))))
