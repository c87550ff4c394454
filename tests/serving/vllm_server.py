# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`vllm serve` of tiny students on loopback, what is asked of it, and what `generate` says to the same."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from servers import free_port, wait_until_it_answers
from student_folders import VOCABULARY, letter_tokenizer
from tiny_models import perturb, student_config

from hf_tc.modeling import HybridGDNForCausalLM

CONTEXT = 256
# Four sequences at once, of which a step reads 64 tokens at most: prompts are read in chunks, beside others' decoding.
CROWDED = ("--max-num-seqs", "4", "--max-num-batched-tokens", "64")
EAGER = ("--enforce-eager",)


class Answer(NamedTuple):
    """Token ids, and the log probability of each."""

    tokens: list[int]
    log_probabilities: list[float]


class Server(NamedTuple):
    url: str
    log: Path

    def post(self, path: str, **request: Any) -> Any:
        body = json.dumps({"model": "student", "temperature": 0, **request}).encode()
        message = urllib.request.Request(f"{self.url}/v1/{path}", body, {"Content-Type": "application/json"})
        return urllib.request.urlopen(message, timeout=300)

    def complete(self, prompt: list[int], tokens: int, **request: Any) -> Answer:
        """`tokens` more after a prompt of token ids, the likeliest ones."""
        options = {"max_tokens": tokens, "ignore_eos": True, "logprobs": 1, "return_tokens_as_token_ids": True}
        with self.post("completions", prompt=prompt, **options, **request) as response:
            choice = json.load(response)["choices"][0]
        names, values = choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]
        return Answer([int(name.removeprefix("token_id:")) for name in names], values)


def save_tiny_student(family: str, folder: Path, max_shard_size: str = "5GB", **changes: Any) -> HybridGDNForCausalLM:
    """Four layers, of which the first and the third are recurrent, with a letter a token."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(VOCABULARY), "hidden_size": 64, "head_dim": 32, "max_position_embeddings": CONTEXT}
    student = HybridGDNForCausalLM(student_config(family, (0, 2), **{**sizes, **changes}))
    perturb(student).save_pretrained(folder, max_shard_size=max_shard_size)
    letter_tokenizer().save_pretrained(folder)
    # Not by the default, which leaves out the soft-cap that Gemma 2 has and vLLM computes.
    return HybridGDNForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@contextmanager
def serving(folder: Path, scratch: Path, *options: str) -> Iterator[Server]:
    """`vllm serve` in float32, until the block ends."""
    port, log = free_port(), scratch / "log"
    arguments = [str(folder), "--served-model-name", "student", "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--dtype", "float32", "--max-model-len", str(CONTEXT), *options]
    own = {"HF_HOME": str(scratch / "home"), "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    own |= {"VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("vllm"), "serve", *arguments],
            env={**os.environ, **own},
            stdout=output,
            stderr=output,
        )
    server = Server(f"http://127.0.0.1:{port}", log)
    try:
        wait_until_it_answers(process, server.url, log)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)


@torch.no_grad()
def expected_answer(student: HybridGDNForCausalLM, prompt: list[int], tokens: int) -> Answer:
    """What the student itself says, in Transformers."""
    ids = torch.tensor([prompt])
    output = student.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=None)
    said = output[0, len(prompt) :]
    scores = student(output).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return Answer(said.tolist(), scores.gather(1, said[:, None])[:, 0].tolist())
