# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Models by folder or Hub id; one that is not there, or a damaged file of weights, is named, as it is not in the
library's errors."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import CONFIG_NAME, cached_file


def load_causal_lm(name: str | Path, **options: Any) -> PreTrainedModel:
    """`AutoModelForCausalLM.from_pretrained`.

    Raises:
        ValueError: names the damaged file of weights and says how to replace it.
        OSError: names the model that is not there.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(name, **options)
    except OSError:
        check_is_model(name)
        raise
    except SafetensorError:
        if Path(name).is_dir():
            check_weight_files(Path(name).glob("*.safetensors"))
        elif isinstance(config := try_to_load_from_cache(str(name), CONFIG_NAME), str):
            way_out = f"Download it again: hf download {name} --force-download"
            check_weight_files(Path(config).parent.glob("*.safetensors"), way_out)
        raise


def check_is_model(name: str | Path) -> None:
    """Raises `OSError` for a name that is neither a folder nor a model within reach, on the Hub or in its cache."""
    if Path(name).exists():  # what is in a folder, and lacks there, the library names
        return
    try:
        cached_file(str(name), CONFIG_NAME)
    except OSError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise OSError(
            f"{name} is neither a folder nor a model that can be reached on the Hub ({reason}). Correct the name; for "
            "a model of the Hub check the connection, and log in (hf auth login) where it is private or gated."
        ) from error


def check_weight_files(paths: Iterable[Path], way_out: str = "Save or download it again.") -> None:
    """Raises `ValueError` for the first file, by name, that is not there or not whole; headers alone are read."""
    for path in sorted(paths):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is missing or damaged ({error}). {way_out}") from error
