# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The model card of a student, from model_cards/template.md."""

import shlex
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, hf_hub_url, model_info

from hf_tc.hub.folder_checks import CARD_FILE
from hf_tc.modeling import HybridGDNConfig
from hf_tc.modeling.supported_versions import NEWEST_TRANSFORMERS, OLDEST_TRANSFORMERS, transformers_bounds
from hf_tc.report.page import report_sections, template
from hf_tc.report.summary import is_local, teacher_name

CARD_MARK = "Converted with hf_tc"  # in every card from template.md
HUB_SECONDS = 10.0  # to answer for the teacher's licence
TAGS = ["hf_tc", "gated-deltanet", "linear-attention", "hybrid"]
FROM_TEACHER = ("embeddings", "MLPs", "norms", "the language-model head")
ATTENTION = "the softmax attention"
TRAINED_BY = {  # what each of `hf_tc.config.TRAINS` trains of that; see `hf_tc.distillation.trained_parts`
    "all": {*FROM_TEACHER, ATTENTION},
    "mixers": set[str](),
    "mixers_and_norms": {"norms"},
    "attention_too": {"norms", ATTENTION},
    "lora": {"MLPs", ATTENTION},
}


def render_card(
    config: HybridGDNConfig,
    report: dict[str, Any],
    model_id: str,
    tags: list[str] | None = None,
    plots: Mapping[str, str] | None = None,
) -> str:
    """The model card, from model_cards/template.md.

    Args:
        report: `ConversionReport.to_dict()`, or as much of it as is known, with what `later_figures` adds. What is
            missing is left out of the card.
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
        title=f"{name.split('/')[-1] or config.teacher_config.model_type} with Gated DeltaNet layers",
        teacher=f"`{name}`" if name else f"a {config.teacher_config.model_type} model",
        model_id=model_id,
        served_id=shlex.quote(model_id),
        license=terms.get("license"),
        transformers_bounds=transformers_bounds(),
        tested_transformers=f"{OLDEST_TRANSFORMERS} to {NEWEST_TRANSFORMERS}",
        layer_count=config.num_hidden_layers,
        linear_layers=config.linear_layers,
        retained_layers=config.retained_layers,
        **_from_teacher(report.get("trained", []), has_attention=bool(config.retained_layers)),
        report=report_sections(report, plots or {}, config.num_hidden_layers),
    )
    return str(card) + "\n"


def _from_teacher(presets: list[str] | None, has_attention: bool) -> dict[str, str]:
    """What the card says of the attention that was retained, and of all that is not attention.

    Args:
        presets: those of `TRAINS` that trained the student; None where it was changed, and how is not known.
    """
    trained = set[str]().union(*(TRAINED_BY[name] for name in (["all"] if presets is None else presets)))
    parts = [*FROM_TEACHER, *([ATTENTION] if has_attention and ATTENTION in trained else [])]
    kept, changed = ([part for part in parts if (part in trained) == wanted] for wanted in (False, True))
    sentences = [f"{_listed(kept)} are the teacher's."] if kept else []
    if changed:
        since = "may have changed since" if presets is None else "were trained since"
        sentences.append(f"{_listed(changed)} came from the teacher and {since}.")
    attention = "as in the teacher" if ATTENTION not in trained else "which came from the teacher"
    return {"attention": attention, "inherited": " ".join(sentences)}


def _listed(parts: list[str]) -> str:
    text = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return text[0].upper() + text[1:]


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
