# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Time and memory of a distillation step, and the error of its gradients in bfloat16, against other ways to take it.

    python -m tests.benchmarks.distillation_step [--shape head --batch 8 --length 2048]

A step is forward and backward of a student on its teacher's predictions: with this project's loss, which takes TRL's
kernels where they fit, and with its own form of it; with all logits in memory; with flash-linear-attention's
FusedKLDivLoss and TRL's ChunkedDivergenceFunction where they are installed; and, for comparison, of the student's own
cross-entropy. The shape `head` is a large vocabulary on one layer; with others the student has recurrent layers. With
--frozen-head the head does not train. The last rows are the relative error of the gradients of hidden states and head
near the teacher, against float64, of both forms of this project's loss.
"""

import argparse
import contextlib
import copy
import functools
import gc
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hf_tc.evaluation import kd_loss, trl_divergence
from hf_tc.evaluation.chunked_objective import chunked_objective
from hf_tc.evaluation.float32_linear import Float32Linear
from hf_tc.evaluation.kd_loss import IGNORE_INDEX, LazyLogits, Objective, next_token_targets
from hf_tc.evaluation.linear_head import LinearHead
from hf_tc.evaluation.lm_head import BackboneThenHead

from .bench import Results, parser_of
from .shapes import SHAPES, built, peak_gb, seconds_of, student, teacher

COLUMNS = ["step", "ms", "tokens/s", "to all logits", "peak GB", "peak to all logits"]
HEAD = dict(
    hidden_size=1024, intermediate_size=2048, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=4,
    head_dim=128, vocab_size=151_936, tie_word_embeddings=True,
)  # fmt: skip
Step = Callable[[], Tensor]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    options = parse()
    kd_loss.LOGITS_AT_ONCE = options.logits_at_once
    dtype = getattr(torch, options.dtype)
    results = Results(
        options.out, COLUMNS, benchmark="distillation_step", **{k: str(v) for k, v in vars(options).items()}
    )
    results.heading(
        f"{results.content['machine']}, {options.shape} in {options.dtype}, {options.batch} x {options.length}"
    )
    torch.manual_seed(options.seed)
    ours, theirs = (built(build, options.device, dtype).train() for build in builders(options))
    theirs.eval().requires_grad_(False)
    if options.frozen_head:
        ours.get_output_embeddings().requires_grad_(False)
    tokens, plain = options.batch * options.length, dict[str, float]()
    for name, step in steps(ours, theirs, batch(ours, options)).items():
        seconds, peak = measured(ours, step, options)
        plain = plain or {"s": seconds, "GB": peak}
        results.add(
            **{"step": name, "ms": 1e3 * seconds, "tokens/s": round(tokens / seconds), "peak GB": peak},
            **{"to all logits": seconds / plain["s"], "peak to all logits": peak and peak / plain["GB"]},
        )
    del ours, theirs
    gc.collect()
    print("\nrelative error of the gradients in bfloat16, of hidden states and head:")
    print("hf_tc:", *gradient_errors(options.device))
    print("hf_tc's own form:", *gradient_errors(options.device, own_form=True))


def builders(options: argparse.Namespace) -> tuple[Callable[[], PreTrainedModel], Callable[[], PreTrainedModel]]:
    """What builds student and teacher."""
    if options.shape != "head":
        return student(options.shape, options.length), teacher(options.shape, options.length)
    one_layer = lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **HEAD))  # noqa: E731
    return one_layer, one_layer


def batch(model: PreTrainedModel, options: argparse.Namespace) -> dict[str, Tensor]:
    """Random tokens, a tenth of them without label."""
    ids = torch.randint(model.config.vocab_size, (options.batch, options.length), device=options.device)
    labels = ids.masked_fill(torch.rand(ids.shape, device=ids.device) < 0.1, IGNORE_INDEX)
    return {"input_ids": ids, "labels": labels}


def steps(ours: PreTrainedModel, theirs: PreTrainedModel, data: dict[str, Tensor]) -> dict[str, Step]:
    """The losses by name, the one that all are compared with first."""
    inputs, targets = {"input_ids": data["input_ids"]}, next_token_targets(data["labels"])
    parts, taught = BackboneThenHead(ours), BackboneThenHead(theirs)
    labelled = targets != IGNORE_INDEX

    def all_logits() -> Tensor:
        with torch.no_grad():
            log_p = F.log_softmax(theirs(**inputs, use_cache=False).logits.float(), -1)
        log_q = F.log_softmax(ours(**inputs, use_cache=False).logits.float(), -1)
        return (F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1) * labelled).sum() / labelled.sum()

    def chunked(own_form: bool = False) -> Tensor:
        with torch.no_grad():
            hidden = taught.lazy_logits(taught.hidden_states(inputs))
        mine = parts.lazy_logits(parts.hidden_states(inputs))
        if own_form:
            mine = mine._replace(linear=None)
        return chunked_objective(mine, hidden, targets, Objective(), chunk_tokens=parts.tokens_at_once) / labelled.sum()

    def cross_entropy() -> Tensor:
        return ours(**data, use_cache=False).loss

    def of_library(loss: Loss) -> Step:
        def step() -> Tensor:
            with torch.no_grad():
                hidden = taught.hidden_states(inputs)
            heads = ours.get_output_embeddings().weight, theirs.get_output_embeddings().weight
            return loss(parts.hidden_states(inputs)[labelled], hidden[labelled], *heads)

        return step

    found: dict[str, Step] = {"all logits": all_logits, "hf_tc": chunked}
    if trl_divergence.divergence_function() is not None:
        found["hf_tc's own form"] = functools.partial(chunked, own_form=True)
    found |= {name: of_library(loss) for name, loss in library_losses().items()}
    return found | {"cross-entropy of the student": cross_entropy}


def library_losses() -> dict[str, Loss]:
    """Losses of hidden states and heads, of student and teacher in turn, that are installed."""
    found: dict[str, Loss] = {}
    if torch.cuda.is_available():
        with contextlib.suppress(ImportError):
            from fla.modules import FusedKLDivLoss

            found["fla FusedKLDivLoss"] = FusedKLDivLoss()
    with contextlib.suppress(ImportError):
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

        def of_trl(ours: Tensor, theirs: Tensor, head: Tensor, teacher_head: Tensor) -> Tensor:
            no_bias, forward_kl = None, 0.0
            divergence = ChunkedDivergenceFunction.apply(ours, head, no_bias, theirs, teacher_head, no_bias, forward_kl)
            return divergence[0].mean()

        found["TRL ChunkedDivergenceFunction"] = of_trl
    return found


def measured(model: PreTrainedModel, step: Step, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of a step and its peak, GB, beyond weights and gradients."""
    model.zero_grad(set_to_none=False)

    def take() -> None:
        on_gpu = torch.device(options.device).type == "cuda"
        with torch.autocast("cuda", torch.bfloat16, enabled=on_gpu and options.dtype == "float32"):
            loss = step()
        loss.backward()

    seconds = seconds_of(take, 2, options.steps)
    held = torch.cuda.memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
    return seconds, max(0.0, peak_gb(take) - held)


def gradient_errors(
    device: str, own_form: bool = False, tokens: int = 256, width: int = 256, vocabulary: int = 32_000
) -> list[float]:
    """Relative errors of the loss' gradients by hidden states and head, where student and teacher are nearly equal."""
    generator = torch.Generator(device).manual_seed(0)
    normal = lambda *shape: torch.randn(shape, generator=generator, device=device)  # noqa: E731
    head = torch.nn.Linear(width, vocabulary, bias=False, device=device, dtype=torch.bfloat16)
    head.weight.data = (normal(vocabulary, width) / width**0.5 * 3).bfloat16()
    taught = normal(1, tokens, width).bfloat16()
    hidden = (taught.float() + 0.1 * normal(1, tokens, width)).bfloat16().requires_grad_()
    exact_head, exact = copy.deepcopy(head).double(), hidden.detach().double().requires_grad_()
    log_p, log_q = (exact_head(x).log_softmax(-1) for x in (taught.double(), exact))
    expected = torch.autograd.grad(
        F.kl_div(log_q, log_p.detach(), reduction="sum", log_target=True), (exact, exact_head.weight)
    )
    ours, theirs = (lazy_logits_of(head, x, own_form) for x in (hidden, taught))
    loss = chunked_objective(ours, theirs, None, Objective(), chunk_tokens=64)
    found = torch.autograd.grad(loss, (hidden, head.weight))
    return [((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]


def lazy_logits_of(head: torch.nn.Linear, hidden: Tensor, own_form: bool) -> LazyLogits:
    """Logits of a bare head, in float32 as those of a model's are."""

    def logits(x: Tensor) -> Tensor:
        with Float32Linear():
            return head(x)

    return LazyLogits(logits, hidden, (head.weight,), None if own_form else LinearHead(head.weight))


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="distillation_step.json")
    parser.add_argument("--shape", choices=["head", *SHAPES], default="head")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--frozen-head", action="store_true")
    parser.add_argument("--logits-at-once", type=int, default=kd_loss.LOGITS_AT_ONCE, help="of hf_tc's own form")
    return parser.parse_args()


if __name__ == "__main__":
    main()
