# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What vLLM adds to a student's log probabilities, and how far they are from its teacher's in the same engine.

    python -m tests.benchmarks.serving_distance --teacher DIR --student DIR --text FILE [--dtypes float32 bfloat16]

Mean |difference| of the log probabilities (nats) of the same tokens after the same prompts: how the text goes on, and
what the student itself writes in vLLM, greedily. Of the latter vLLM's figures for the student are those of the steps
that wrote them; all others are of a sequence that is read: by vLLM in chunks, several side by side, by Transformers at
once. A column from one engine to the other is what rounding does, to the teacher too, which vLLM knows by itself. A
column from student to teacher is what conversion changed, and should be the same in both engines.

Run it in the environment of `.ci/serving`, as `serving` beside it.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tc.data.token_blocks import read_documents, token_blocks

from .bench import Results, parser_of
from .serving import complete, serving

DIFFERENCES = {
    "student, vLLM to Transformers": (("vllm", "student"), ("transformers", "student")),
    "teacher, vLLM to Transformers": (("vllm", "teacher"), ("transformers", "teacher")),
    "student to teacher, vLLM": (("vllm", "student"), ("vllm", "teacher")),
    "student to teacher, Transformers": (("transformers", "student"), ("transformers", "teacher")),
}
COLUMNS = ["dtype", "continuation", "tokens", *DIFFERENCES]


def main() -> None:
    options = parse()
    blocks = token_blocks(
        read_documents([options.text]),
        AutoTokenizer.from_pretrained(options.student),
        options.length,
        options.prompts * options.length,
    )
    results = Results(options.out, COLUMNS, benchmark="serving_distance", length=options.length)
    results.heading(f"{len(blocks)} prompts of {options.length - options.new} tokens and {options.new} after each")
    for dtype in options.dtypes:
        scores = log_probabilities(blocks, dtype, options)
        for index, continuation in enumerate(("the text's", "the student's")):
            row = {
                name: (scores[a][index] - scores[b][index]).abs().mean().item() for name, (a, b) in DIFFERENCES.items()
            }
            results.add(dtype=dtype, continuation=continuation, tokens=len(blocks) * options.new, **row)


def log_probabilities(blocks: Tensor, dtype: str, options: argparse.Namespace) -> dict[tuple[str, str], Tensor]:
    """By engine and model [2, N, new]: of the text's continuations and of the student's."""
    asked = argparse.Namespace(**{**vars(options), "dtype": dtype})
    prompts, new = blocks[:, : -options.new], options.new
    with serving("vllm", "student", options.student, options.length, asked) as (url, _, _):
        written, when_written = write(url, options.student, prompts, new)
        read_text = read(url, options.student, blocks, new)
    sequences = torch.stack((blocks, torch.cat((prompts, written), dim=1)))
    with serving("vllm", "teacher", options.teacher, options.length, asked) as (url, _, _):
        of_teacher = torch.stack([read(url, options.teacher, rows, new) for rows in sequences])
    return {
        ("vllm", "student"): torch.stack((read_text, when_written)),
        ("vllm", "teacher"): of_teacher,
        ("transformers", "student"): read_by_transformers(options.student, dtype, options.device, sequences, new),
        ("transformers", "teacher"): read_by_transformers(options.teacher, dtype, options.device, sequences, new),
    }


def write(url: str, model: str, prompts: Tensor, new: int) -> tuple[Tensor, Tensor]:
    """The likeliest `new` tokens after each prompt [N, T], and their log probabilities; both [N, new]."""
    answers = ask(url, model, prompts, max_tokens=new, ignore_eos=True, return_tokens_as_token_ids=True)
    tokens = [[int(name.removeprefix("token_id:")) for name in answer["tokens"]] for answer in answers]
    return torch.tensor(tokens), torch.tensor([answer["token_logprobs"] for answer in answers])


def read(url: str, model: str, rows: Tensor, new: int) -> Tensor:
    """Log probabilities [N, new] of the last tokens of rows [N, T] by vLLM, which reads and writes nothing."""
    answers = ask(url, model, rows, max_tokens=0, echo=True)
    return torch.tensor([answer["token_logprobs"][-new:] for answer in answers])


def ask(url: str, model: str, prompts: Tensor, **further: Any) -> list[dict[str, list[Any]]]:
    """What the server says of tokens and their log probabilities to each of prompts [N, T], asked all at once."""

    def one(prompt: list[int]) -> dict[str, list[Any]]:
        (choice,) = complete(url, model=model, prompt=prompt, logprobs=1, **further)["choices"]
        return choice["logprobs"]

    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(one, prompts.tolist()))


@torch.no_grad()
def read_by_transformers(folder: str, dtype: str, device: str, sequences: Tensor, new: int) -> Tensor:
    """The same of sequences [2, N, T], row after row, by Transformers: [2, N, new]."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
    scores = []
    for ids in sequences.flatten(0, 1).to(device):
        logits = model(ids[None], logits_to_keep=new + 1).logits[0, :-1]
        scores.append(logits.float().log_softmax(-1).gather(1, ids[-new:, None])[:, 0].cpu())
    return torch.stack(scores).view(*sequences.shape[:2], new)


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="serving_distance.json")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--length", type=int, default=512, help="tokens of a prompt and what is read after it")
    parser.add_argument("--new", type=int, default=128, help="tokens after each prompt, whose figures are compared")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--cache-gib", type=int, default=2, help="memory of vLLM's caches on a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
