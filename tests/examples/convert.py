# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Converts a teacher into a student, shows what it cost and lets it write: python tests/examples/convert.py"""

import argparse

from transformers import pipeline

from hf_tc import HybridGDNForCausalLM
from hf_tc.assets import sample_text_path, tiny_teacher_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default=tiny_teacher_path(), help="folder or Hub id (default: the packaged one)")
    parser.add_argument("--data", default=sample_text_path("calibration"), help="text that the student will be used on")
    parser.add_argument("--tokens", type=int, default=16_384, help="to calibrate on; 65,536 or more for a good student")
    parser.add_argument("--steps", type=int, default=100, help="of alignment, per layer; 1,200 for a good student")
    parser.add_argument("--out", default="student")
    options = parser.parse_args()

    student = HybridGDNForCausalLM.from_teacher(
        options.teacher,
        calibration_data=options.data,
        retained_layers=0.25,  # a share, or the indices of the layers that keep attention
        calibration_tokens=options.tokens,
        sequence_length=256,
        alignment_steps=options.steps,
    )
    report = student.conversion_report
    report.print()
    print(f"Layers with attention: {report.retained_layers}, with Gated DeltaNet: {report.linear_layers}")
    student.save_pretrained(options.out)

    generate = pipeline("text-generation", model=options.out)  # as any other model
    print(generate("It was a dark night, and the old man", max_new_tokens=40, do_sample=False)[0]["generated_text"])


if __name__ == "__main__":
    main()
