# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which code a student's folder holds beside its weights, and how it stands to the code that is installed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version
from transformers.utils import CONFIG_NAME

from hf_tc.modeling.saving import MODELING_FILE, code_files, code_sha256
from hf_tc.modeling.supported_versions import HF_TC_VERSION


@dataclass
class SavedCode:
    """The code of a saved student.

    Attributes:
        name: folder or Hub id, for messages.
        version: of hf_tc that saved it; None before releases were recorded.
        is_edited: whether its files are other ones than were saved, or are not all there; False where that was not
            recorded or there is no code at all, as on the Hub before it is downloaded.
        is_current: whether its files are those that are installed.
    """

    name: str
    version: str | None
    is_edited: bool = False
    is_current: bool = False

    @classmethod
    def in_folder(cls, folder: Path, name: str | None = None) -> "SavedCode":
        """Reads the configuration and the code files."""
        fields = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        return cls.of_config(fields, folder, name)

    @classmethod
    def of_config(cls, fields: dict[str, Any], folder: Path, name: str | None = None) -> "SavedCode":
        """As `in_folder`, from fields of the configuration that were read already."""
        saved = cls(name or str(folder), fields.get("hf_tc_version"))
        recorded = fields.get("code_sha256")
        if (folder / MODELING_FILE).is_file():
            found = _sha256_in(folder)
            saved.is_edited = recorded is not None and found != recorded
            saved.is_current = found == code_sha256(code_files())
        return saved

    @property
    def is_newer(self) -> bool:
        """Whether a later release than the installed one saved it."""
        return self.version is not None and Version(self.version) > Version(HF_TC_VERSION)

    @property
    def warning(self) -> str | None:
        """One line on what may surprise whoever loads this student with hf_tc's own classes, and what to do."""
        if self.is_newer:
            return (
                f"{self.name} was saved by hf_tc {self.version}; the installed {HF_TC_VERSION} is older and may not "
                "know all of it. Upgrade: pip install -U hf_tc"
            )
        if self.is_edited and not self.is_current:
            return (
                f"The code files in {self.name} are not those that hf_tc saved, and where hf_tc is imported they are "
                f"not what runs. Put your change into hf_tc, or drop it: hf-tc refresh {self.name} --force"
            )
        return None

    @property
    def warning_before_use_elsewhere(self) -> str | None:
        """`warning`, or one line on code that is another release's and runs wherever hf_tc is not installed."""
        if self.warning is not None or self.is_current:
            return self.warning
        saved_by = "an earlier hf_tc" if self.version is None else f"hf_tc {self.version}"
        return (
            f"{self.name} holds the code of {saved_by}, which runs where hf_tc is not installed. To replace it by that "
            f"of the installed {HF_TC_VERSION}: hf-tc refresh {self.name}"
        )


def _sha256_in(folder: Path) -> str | None:
    try:
        return code_sha256(code_files(folder))
    except FileNotFoundError:
        return None
