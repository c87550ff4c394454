# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What vLLM cannot serve is refused in one line, before a weight is loaded."""

import math
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from hf_tc.hub.folder_checks import weight_files
from hf_tc.teachers.loading import check_weight_files

from .families import head_counts, mixer_form, why_not_served

WIDEST_KERNEL = 4  # of the convolution, in vLLM's kernels for GPUs


def check_student(config: Any, vllm_version: str) -> None:
    """Raises `ValueError` for a vLLM that was not tested, and for a student's configuration that is not served."""
    tested = next(line for line in map(Requirement, requires("hf_tc") or []) if line.name == "vllm").specifier
    if not tested.contains(vllm_version, prereleases=True):
        raise ValueError(
            f"This is vLLM {vllm_version}; hf_tc serves students by vLLM{tested}, since its layout of recurrent states "
            f"is no public interface. pip install 'vllm{tested}', or serve by Transformers: hf-tc serve."
        )
    reason = why_not_served(config)
    if reason is not None:
        raise ValueError(reason)


def check_engine(vllm_config: Any, is_gpu: bool) -> None:
    """Raises `ValueError` for what vLLM was asked for that a student cannot do.

    Args:
        vllm_config: vLLM's `VllmConfig` of a student.
        is_gpu: whether it is going to run on a GPU.
    """
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    heads, kv_heads, _ = head_counts(model.hf_config)
    ranks = parallel.tensor_parallel_size
    if heads % ranks or kv_heads % ranks:
        raise ValueError(
            f"--tensor-parallel-size {ranks} does not divide {heads} query heads and {kv_heads} key/value heads, of "
            f"which a recurrent layer has a state each. Use {math.gcd(heads, kv_heads)} or a divisor of it."
        )
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        raise ValueError("Context parallelism cannot divide a recurrent state. Use --tensor-parallel-size instead.")
    if vllm_config.speculative_config is not None:
        raise ValueError(
            "Speculative decoding is not served for students: a recurrent state cannot take a token back. Leave "
            "--speculative-config out."
        )
    kernel_size = mixer_form(model.hf_config).kernel_size
    if is_gpu and kernel_size > WIDEST_KERNEL:
        raise ValueError(
            f"conv_kernel_size is {kernel_size}; vLLM's kernels for GPUs take {WIDEST_KERNEL} at most. Serve the "
            "student by Transformers: hf-tc serve."
        )
    if is_gpu and "32" in str(model.dtype):
        raise ValueError(f"vLLM's recurrent kernels for GPUs do not take {model.dtype}. Use --dtype bfloat16.")
    check_folder(model.model)


def check_folder(name: str) -> None:
    """Raises `ValueError` for a local folder whose weights are not all there; of the Hub, vLLM downloads what lacks."""
    folder = Path(name)
    if folder.is_dir():
        check_weight_files(folder / file for file in weight_files(folder))
