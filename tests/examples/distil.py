# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Distils a student from its teacher and measures what it gained: python tests/examples/distil.py --student student

The student is the folder that convert.py wrote. `hf-tc distill` does the same by command line.
"""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tc import DistillationConfig, DistillationTrainer, evaluate
from hf_tc.assets import sample_text_path, tiny_teacher_path
from hf_tc.data.token_blocks import read_documents, token_blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="student", help="folder or Hub id")
    parser.add_argument("--teacher", default=tiny_teacher_path(), help="folder or Hub id (default: the packaged one)")
    parser.add_argument("--data", default=sample_text_path("calibration"), help="text to train on")
    parser.add_argument("--tokens", type=int, default=65_536, help="to train on; a million or more for a good student")
    parser.add_argument("--out", default="distilled")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.student)
    student = AutoModelForCausalLM.from_pretrained(options.student, dtype="float32")
    teacher = AutoModelForCausalLM.from_pretrained(options.teacher)
    heldout = {"sequence_length": 256, "max_tokens": 4096, "batch_size": 4, "show_progress": False}
    before = evaluate(student, tokenizer, sample_text_path("heldout"), teacher, **heldout)

    blocks = token_blocks(read_documents(options.data), tokenizer, sequence_length=256, max_tokens=options.tokens)
    arguments = DistillationConfig(  # TrainingArguments, with the shape of the loss
        options.out,
        num_train_epochs=1,
        per_device_train_batch_size=4,
        learning_rate=3e-4,
        lr_scheduler_type="cosine",
        save_strategy="no",
        report_to="none",
    )
    trainer = DistillationTrainer(
        student,
        teacher,
        arguments,
        train_dataset=[{"input_ids": block} for block in blocks],
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()

    after = evaluate(student, tokenizer, sample_text_path("heldout"), teacher, **heldout)
    print(f"Perplexity {before.perplexity:.2f} -> {after.perplexity:.2f}, the teacher's {after.teacher_perplexity:.2f}")
    print(f"KL to the teacher {before.kl:.3f} -> {after.kl:.3f} nats a token")


if __name__ == "__main__":
    main()
