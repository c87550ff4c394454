# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student's folder, complete with tokenizer, report and model card, and its way to the Hub."""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, ModelCard, ModelCardData, hf_hub_url, model_info
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from .fingerprint import same_weights, weights_fingerprint
from .model_loading import check_weight_files
from .modeling import HybridGDNConfig, HybridGDNPreTrainedModel
from .modeling.saving import code_files, create_repository, upload_folder
from .modeling.supported_versions import NEWEST_TRANSFORMERS, OLDEST_TRANSFORMERS, transformers_bounds
from .report import ConversionReport
from .report_page import is_local, report_sections, teacher_name, template
from .saved_code import SavedCode

logger = logging.get_logger(__name__)

CARD_FILE = "README.md"
CARD_MARK = "Converted with hf_tc"  # in every card from template.md
FIGURES = ("Perplexity", "Layer by layer")  # sections of a card that are of the student's weights
HUB_SECONDS = 10.0  # to answer for the teacher's licence
# Lines of the card that name the student; a push makes them name the repository.
NAMING_LINES = {
    r'^model_id = ".*"$': 'model_id = "{}"',
    r"^transformers serve .* --trust-remote-code$": "transformers serve {} --trust-remote-code",
}
TAGS = ["hf_tc", "gated-deltanet", "linear-attention", "hybrid"]
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def save_student(
    student: HybridGDNPreTrainedModel,
    folder: str | os.PathLike,
    tokenizer: PreTrainedTokenizerBase | None = None,
    report: ConversionReport | None = None,
    **kwargs: Any,
) -> None:
    """Saves a student with what belongs to it; later saves of the same object include it as well.

    Args:
        tokenizer, report: default to `student.tokenizer` and `student.conversion_report`, which conversion sets. A
            report that does not say which weights its figures are of is taken to be of these.
        kwargs: of `save_pretrained`, such as `max_shard_size`.
    """
    if tokenizer is not None:
        student.tokenizer = tokenizer
    if report is not None:
        if not report.student_weights:
            report.student_weights = weights_fingerprint(student.state_dict().values())
        student.conversion_report = report
    student.save_pretrained(folder, **kwargs)


def render_card(
    config: HybridGDNConfig,
    report: dict[str, Any],
    model_id: str,
    tags: list[str] | None = None,
    plots: Mapping[str, str] | None = None,
) -> str:
    """The model card, from model_cards/template.md.

    Args:
        report: `ConversionReport.to_dict()`, or as much of it as is known. What is missing is left out of the card.
        model_id: folder or `user/name` that the usage examples load.
        tags: further tags of the metadata.
        plots: pictures beside the card, see `report_sections`.
    """
    teacher, name = str(report.get("teacher") or ""), teacher_name(report)
    terms = _license(teacher)
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=teacher if teacher and not is_local(teacher) else None,
        license=terms.get("license"),
        license_name=terms.get("license_name"),
        license_link=terms.get("license_link"),
        tags=[*TAGS, *(tag for tag in tags or [] if tag not in TAGS)],
    )
    card = ModelCard.from_template(
        metadata,
        template_str=template("template.md"),
        title=f"{name.split('/')[-1] or config.text_config.model_type} with Gated DeltaNet layers",
        teacher=f"`{name}`" if name else f"a {config.text_config.model_type} model",
        model_id=model_id,
        served_id=shlex.quote(model_id),
        license=terms.get("license"),
        transformers_bounds=transformers_bounds(),
        tested_transformers=f"{OLDEST_TRANSFORMERS} to {NEWEST_TRANSFORMERS}",
        layer_count=config.num_hidden_layers,
        linear_layers=config.linear_layers,
        retained_layers=config.retained_layers,
        report=report_sections(report, plots or {}, config.num_hidden_layers),
    )
    return str(card) + "\n"


def _license(teacher: str) -> dict[str, Any]:
    """What the teacher's model card, in its folder or on the Hub, states of its licence: fields of ModelCardData."""
    local = is_local(teacher)
    data = _card_in_folder(Path(teacher).expanduser()) if local else _card_on_hub(teacher)
    terms = {name: data[name] for name in ("license", "license_name", "license_link") if data.get(name)}
    if "://" not in terms.get("license_link", "://"):  # a file beside the teacher's card
        link = terms.pop("license_link")
        terms |= {} if local else {"license_link": hf_hub_url(teacher, link)}
    return terms


def _card_in_folder(folder: Path) -> dict[str, Any]:
    card = folder / CARD_FILE
    return ModelCard.load(card, ignore_metadata_errors=True).data.to_dict() if card.is_file() else {}


@lru_cache  # asked for once, though a trainer saves many times
def _card_on_hub(teacher: str) -> dict[str, Any]:
    """Metadata of the card; none where the Hub or the teacher is out of reach: offline, gated, not a Hub id."""
    try:
        card = model_info(teacher, timeout=HUB_SECONDS).card_data if teacher else None
    except Exception:  # errors of the HTTP library have no base in common over its versions
        return {}
    return card.to_dict() if card is not None else {}


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    private: bool | None = None,
    token: str | bool | None = None,
    **options: Any,
) -> CommitInfo:
    """Uploads a student's folder as it is, after checking that whoever downloads it can load it.

    The usage examples of its model card are made to name the repository.

    Args:
        private, token, options: as in `push_to_hub`: `revision`, `create_pr`, `commit_message`, `commit_description`.

    Raises:
        ValueError: the folder is not a complete student, or its card has figures of another; nothing was uploaded.
    """
    folder = Path(folder)
    check_student_folder(folder)
    check_card(folder)
    warn_of_other_code(folder)
    repo_id = create_repository(repo_id, private, token)
    card = folder / CARD_FILE
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        for pattern, line in NAMING_LINES.items():
            text = re.sub(pattern, line.format(repo_id), text, count=1, flags=re.MULTILINE)
        card.write_text(text, encoding="utf-8")
    return upload_folder(folder, repo_id, token=token, **options)


def check_student_folder(folder: str | os.PathLike) -> None:
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
    if not (card.is_file() and ConversionReport.stands_in(folder)):
        return
    measured = ConversionReport.load(folder).student_weights
    has_figures = any(f"\n## {title}\n" in card.read_text(encoding="utf-8") for title in FIGURES)
    if has_figures and measured and not same_weights(measured, saved_weights_fingerprint(folder)):
        raise ValueError(
            f"{card} has figures of other weights than are beside it. Load the student and save it again, which renews "
            f"the card: from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )


def warn_of_other_code(folder: str | os.PathLike) -> None:
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
