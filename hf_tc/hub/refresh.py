# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""New code for a student that was saved by an earlier hf_tc: what `hf-tc refresh` does. Weights are not touched."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from transformers.utils import CONFIG_NAME

from hf_tc.hub.saved_code import SavedCode
from hf_tc.modeling import HybridGDNConfig
from hf_tc.modeling.saving import code_fields, code_files
from hf_tc.modeling.supported_versions import HF_TC_VERSION
from hf_tc.resume.arguments import replace_file


def refresh(student: str | Path, force: bool = False, token: str | bool | None = None) -> list[str]:
    """Replaces the code files of a saved student, and what its configuration says of them, by the installed ones.

    Args:
        student: a folder, or the id of a repository on the Hub, which gets one commit.
        force: also replaces code that was edited, or that a later hf_tc saved.
        token: of the Hub.

    Returns:
        The names of the files that were written or removed; none where the code was current.

    Raises:
        ValueError: there is no student; or its code was edited or is of a later hf_tc, and `force` is off.
    """
    if Path(student).is_dir():
        return refresh_folder(Path(student), str(student), force)
    api, repo_id = HfApi(token=token), str(student)
    commit = api.model_info(repo_id).sha
    with tempfile.TemporaryDirectory() as scratch:
        patterns = [CONFIG_NAME, "*.py"]
        snapshot_download(repo_id, revision=commit, allow_patterns=patterns, local_dir=scratch, token=token)
        folder = Path(scratch)
        changed = refresh_folder(folder, repo_id, force)
        operations: list[Any] = [
            CommitOperationAdd(name, folder / name) if (folder / name).exists() else CommitOperationDelete(name)
            for name in changed
        ]
        if operations:
            message = f"Code of hf_tc {HF_TC_VERSION}"
            api.create_commit(repo_id, operations, commit_message=message, parent_commit=commit)
    return changed


def refresh_folder(folder: Path, name: str, force: bool) -> list[str]:
    """`refresh` of a folder; `name` is what messages call it."""
    config_file = folder / CONFIG_NAME
    fields = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    if fields.get("model_type") != HybridGDNConfig.model_type:
        raise ValueError(f"{name} holds no student: its {CONFIG_NAME} is missing or has another model_type.")
    saved = SavedCode.of_config(fields, folder, name)
    if saved.is_newer and not force:
        raise ValueError(
            f"{name} was saved by hf_tc {saved.version}, later than the installed {HF_TC_VERSION}. Upgrade: pip "
            "install -U hf_tc. Or replace its code by the earlier one with --force."
        )
    if saved.is_edited and not saved.is_current and not force:
        raise ValueError(
            f"The code files in {name} are not those that hf_tc saved: someone edited, added or removed one. Keep what "
            "you need of them, then replace them with --force."
        )
    return _replace_code(folder) + _replace_fields(config_file, fields)


def _replace_code(folder: Path) -> list[str]:
    new = {source.name: source for source in code_files()}
    try:
        obsolete = [path for path in code_files(folder) if path.name not in new]
    except FileNotFoundError:  # what the rest imports is not known then, and the rest does no harm
        obsolete = []
    changed = [path.name for path in obsolete]
    for path in obsolete:
        path.unlink()
    for name, source in new.items():
        target = folder / name
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            shutil.copyfile(source, target)
            changed.append(name)
    return changed


def _replace_fields(config_file: Path, fields: dict[str, Any]) -> list[str]:
    new = {**fields, **code_fields()}
    if new == fields:
        return []
    text = json.dumps(new, indent=2, sort_keys=True) + "\n"  # as the library writes it
    replace_file(config_file, lambda part: part.write_text(text, encoding="utf-8"))
    return [config_file.name]
