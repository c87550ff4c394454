# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Make everything in this folder but the code: the tiny teacher, its tokenizer and the two sample texts.

Two steps, because only the second wants a GPU:

    python make_tiny_teacher.py prepare --train books-a.txt books-b.txt --validation books-c.txt \
        --calibration-books "WHITE FANG" "SANCTUARY" --tokens tokens.npz --out .
    python make_tiny_teacher.py train --tokens tokens.npz --out .

Text files are UTF-8 with whole books separated by a line `<|endoftext|>`. `prepare` takes seconds to minutes on a
CPU; `train` took under six minutes on one H100. PROVENANCE.md has the command and the figures of the packaged files.
Needs torch >= 2.9 (torch.optim.Muon), numpy and transformers.
"""

import argparse
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
SEPARATOR = END_OF_TEXT + "\n"
VOCAB_SIZE = 3072
TRAINED_LENGTH, LONGEST_LENGTH = 1024, 2048

# Electronic editions with terms of their own, and magazine fiction of the 1950s that is in the public domain only
# because a renewal was not found: neither is trained on nor packaged.
NOT_PLAINLY_PUBLIC_DOMAIN = re.compile(
    r"World Library|NOT placed in the Public Domain|COPYRIGHTED Project Gutenberg|Creative Commons"
    r"|uncover any evidence|Science Fiction|Illustrated by EMSH|\b19[3-9]\d\b"
)
HEAD_CHARACTERS = 3000  # how far notices and title pages reach, from either end


def read_books(paths: list[Path]) -> list[str]:
    """The plainly public-domain books of the files, each ending in one newline."""
    texts = [path.read_text(encoding="utf-8") for path in paths]
    books = [book.strip("\n") + "\n" for text in texts for book in text.split(SEPARATOR) if book.strip()]
    ends = [book[:HEAD_CHARACTERS] + book[-HEAD_CHARACTERS:] for book in books]
    return [book for book, end in zip(books, ends, strict=True) if not NOT_PLAINLY_PUBLIC_DOMAIN.search(end)]


def excerpt(book: str, size: int) -> str:
    """About `size` characters of whole paragraphs from three tenths into the book, past title pages and contents."""
    start = book.index("\n\n", 3 * len(book) // 10) + 2
    end = book.find("\n\n", start + size)
    return book[start : end if end > 0 else len(book)].strip("\n") + "\n"


def train_tokenizer(books: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of VOCAB_SIZE entries, single digits; nothing is added around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(books, trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        model_max_length=LONGEST_LENGTH,
    )


def encode(books: list[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """One stream of token ids: every book preceded by the end-of-text token."""
    end = [tokenizer.eos_token_id]
    return np.concatenate(
        [np.array(end + tokenizer.backend_tokenizer.encode(book).ids, dtype=np.uint16) for book in books]
    )


def prepare(args: argparse.Namespace) -> None:
    """Write the tokenizer, both sample texts and the token streams."""
    books, validation = read_books(args.train), read_books([args.validation])
    withheld = {title: [b for b in books if title in b[:HEAD_CHARACTERS]] for title in args.calibration_books}
    for title, found in withheld.items():
        if len(found) != 1:
            raise SystemExit(
                f"--calibration-books: {len(found)} books begin with {title!r}; give a title that names one."
            )
    calibration = [found[0] for found in withheld.values()]
    books = [book for book in books if book not in calibration]

    tokenizer = train_tokenizer(books)
    folder = args.out / "tiny_teacher"
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    for split, sources, size in (("calibration", calibration, 58_000), ("heldout", validation, 30_000)):
        text = SEPARATOR.join(excerpt(book, size) for book in sources)
        (args.out / f"sample_{split}.txt").write_text(text, encoding="utf-8")
        print(f"sample_{split}.txt: {len(sources)} books, {len(encode([text], tokenizer)):,} tokens")
    np.savez_compressed(
        args.tokens,
        train=(train := encode(books, tokenizer)),
        validation=(held_out := encode(validation, tokenizer)),
        validation_bytes=sum(len(book.encode()) for book in validation),
    )
    print(f"train: {len(books)} books, {sum(len(b.encode()) for b in books):,} bytes, {len(train):,} tokens")
    print(f"validation: {len(validation)} books, {len(held_out):,} tokens")


def build_model() -> Qwen3ForCausalLM:
    """The untrained teacher: 8 layers, 2.5 M parameters, embedding and output head tied."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=160,
            intermediate_size=352,
            num_hidden_layers=8,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=LONGEST_LENGTH,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
    )


def windows(tokens: torch.Tensor, length: int, batch: int) -> Iterator[torch.Tensor]:
    """Endless [batch, length + 1] windows of the stream: each epoch a new offset and a new order, none seen twice."""
    while True:
        offset = int(torch.randint(length, ()))
        starts = torch.arange(offset, len(tokens) - length - 1, length)
        starts = starts[torch.randperm(len(starts))].to(tokens.device)
        for chosen in starts.split(batch)[:-1]:
            yield tokens[chosen[:, None] + torch.arange(length + 1, device=tokens.device)].long()


def make_optimizers(model: torch.nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, Adam for the embedding and the norms; all masters stay float32."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "layers" in name)]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.02),
        torch.optim.Adam(others, lr=3e-3, betas=(0.9, 0.95), fused=others[0].is_cuda),
    ]


def token_loss(model: torch.nn.Module, window: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy in nats over a [batch, length + 1] window, logits from bfloat16 autocast."""
    with torch.autocast(window.device.type, torch.bfloat16):
        logits = model(input_ids=window[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())


@torch.no_grad()
def validation_loss(loss_of: Callable[..., torch.Tensor], model: torch.nn.Module, tokens: torch.Tensor) -> float:
    """Nats per token over back-to-back windows of TRAINED_LENGTH tokens."""
    stream = tokens[: (len(tokens) - 1) // TRAINED_LENGTH * TRAINED_LENGTH + 1].long()
    rows = stream.unfold(0, TRAINED_LENGTH + 1, TRAINED_LENGTH)
    return sum(float(loss_of(model, part)) * len(part) for part in rows.split(32)) / len(rows)


def fit(
    model: torch.nn.Module, loss_of: Callable[..., torch.Tensor], tokens: torch.Tensor, args: argparse.Namespace
) -> None:
    """Train in place. The last tenth of the steps uses LONGEST_LENGTH windows, so every position is a trained one."""
    optimizers = make_optimizers(model, args.learning_rate)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    short, long = (windows(tokens, n, args.tokens_per_step // n) for n in (TRAINED_LENGTH, LONGEST_LENGTH))
    started = time.perf_counter()
    for step in range(args.steps):
        loss = loss_of(model, next(short if step < 0.9 * args.steps else long))
        loss.backward()
        scale = min(1.0, (step + 1) / 200) * (1 - step / args.steps)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 250 == 0 or step == args.steps - 1:
            print(f"step {step:6d}  loss {loss.item():.4f}  {time.perf_counter() - started:7.1f} s", flush=True)


def train(args: argparse.Namespace) -> None:
    """Train on the token streams, write the teacher in bfloat16 and print what the written files score."""
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    data = np.load(args.tokens)
    tokens, held_out = (torch.from_numpy(data[name].astype(np.int32)).to(device) for name in ("train", "validation"))
    loss_of = torch.compile(token_loss, dynamic=False) if device == "cuda" else token_loss

    model = build_model().to(torch.device(device))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokens):,} training tokens")
    fit(model, loss_of, tokens, args)
    before = validation_loss(token_loss, model, held_out)

    folder = args.out / "tiny_teacher"
    model.to(torch.bfloat16).save_pretrained(folder)
    written = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    written.to(torch.device(device))
    loss = validation_loss(token_loss, written, held_out)
    bits_per_byte = loss * len(held_out) / math.log(2) / int(data["validation_bytes"])
    print(f"validation perplexity: float32 masters {math.exp(before):.3f}, written bfloat16 {math.exp(loss):.3f}")
    print(f"{bits_per_byte:.4f} bits per byte, perplexity per byte {2**bits_per_byte:.4f}")
    print(f"{args.steps * args.tokens_per_step:,} tokens trained on")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True)
    first = steps.add_parser("prepare", help="tokenizer, sample texts and token streams from books")
    first.add_argument("--train", type=Path, nargs="+", required=True, help="text files to train on")
    first.add_argument("--validation", type=Path, required=True, help="text file never trained on; held-out sample")
    first.add_argument("--calibration-books", nargs="+", required=True, help="titles withheld for the other sample")
    first.set_defaults(action=prepare)
    second = steps.add_parser("train", help="the model from the token streams")
    second.add_argument("--steps", type=int, default=5000)
    second.add_argument("--tokens-per-step", type=int, default=131_072)
    second.add_argument("--learning-rate", type=float, default=0.02, help="Muon's peak")
    second.add_argument("--seed", type=int, default=0)
    second.set_defaults(action=train)
    for step in (first, second):
        step.add_argument("--tokens", type=Path, required=True, help="file of the token streams (.npz)")
        step.add_argument("--out", type=Path, required=True, help="folder of the assets")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.action(args)


if __name__ == "__main__":
    main()
