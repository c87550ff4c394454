# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Whether a saved student's folder is whole and fit for others. `modeling.saving` and `save_extras` say what it has."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from hf_tc.hub.saved_code import SavedCode
from hf_tc.modeling import HybridGDNConfig
from hf_tc.modeling.saving import code_files
from hf_tc.report.records import ConversionReport
from hf_tc.resume.fingerprint import same_weights, weights_fingerprint
from hf_tc.teachers.loading import check_weight_files

logger = logging.get_logger(__name__)

CARD_FILE = "README.md"
FIGURES = ("Perplexity", "Layer by layer")  # sections of a card that are of the weights of the conversion
EVALUATION = "Evaluation"  # the section that is of weights of its own
CURVE = "\n| tokens | perplexity |"  # the table that is, too
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def check_student_folder(folder: str | os.PathLike[str]) -> None:
    """Checks that a folder holds a whole student: configuration, code, readable weights, and no pickled file.

    Raises:
        ValueError: names the folder, what is wrong with it and what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Give the folder that save_pretrained or `hf-tc convert` wrote.")
    _check_config(folder)
    try:
        code_files(folder)
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise ValueError(
            f"{folder} lacks the code file {missing}. Put it back: hf-tc refresh {folder} --force"
        ) from error
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickled:
        raise ValueError(
            f"{folder} holds {', '.join(pickled)}, which may be pickled and would run code when loaded. Remove them; a "
            "student needs safetensors only."
        )
    check_weight_files(folder / name for name in weight_files(folder))


def check_card(folder: Path) -> None:
    """Checks that a card has no figures of weights that were replaced since, by a tool that writes nothing but weights.

    Raises:
        ValueError: it has; the message says what to do.
    """
    card = folder / CARD_FILE
    if not (card.is_file() and ConversionReport.exists(folder)):
        return
    report, text = ConversionReport.load(folder), card.read_text(encoding="utf-8")
    measured = [report.student_weights for title in FIGURES if f"\n## {title}\n" in text]
    if report.evaluation and f"\n## {EVALUATION}\n" in text:
        measured.append(report.evaluation["student_weights"])
    if report.distillations and CURVE in text:
        measured.append(report.distillations[-1].get("student_weights") or {})
    saved = saved_weights_fingerprint(folder) if any(measured) else None
    if any(weights and not same_weights(weights, saved) for weights in measured):
        raise ValueError(
            f"{card} has figures of other weights than are beside it. Load the student and save it again, which renews "
            f"the card: from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )


def warn_of_other_code(folder: str | os.PathLike[str]) -> None:
    """Says once, in one line, if a student's folder holds other code than is installed."""
    warning = SavedCode.in_folder(Path(folder)).warning_before_use_elsewhere
    if warning is not None:
        logger.warning_once(warning)


def _check_config(folder: Path) -> None:
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG_NAME}, so it is no model's folder.")
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") != HybridGDNConfig.model_type:
        raise ValueError(
            f"{folder} holds a model of type {config.get('model_type')!r}, not {HybridGDNConfig.model_type!r}."
        )
    if not config.get("auto_map"):
        raise ValueError(f"{path} has no auto_map, so the student loads with hf_tc only. Load it and save it again.")


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold a student's weights, whether or not they are there.

    Raises:
        ValueError: neither weights nor their index.
    """
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [SAFE_WEIGHTS_NAME]
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        raise ValueError(f"{folder} has neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}: no weights.")
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def saved_weights_fingerprint(folder: Path) -> dict[str, str] | None:
    """`weights_fingerprint` of a student's files; None where its weights are not in safetensors of the usual names."""
    try:
        names = weight_files(folder)
    except ValueError:
        return None

    def tensors() -> Iterator[Tensor]:
        for name in names:
            with safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118, not a dict
                    yield file.get_tensor(key)

    return weights_fingerprint(tensors())
