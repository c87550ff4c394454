# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student's folder holds its own code, so that it loads where hf_tc is not installed.

The library would copy the code itself, but only for classes that were loaded as remote code, and under FSDP2 it would
copy PyTorch's files instead: sharding swaps a model's class for one that is defined there.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import CommitInfo, HfApi
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from .supported_versions import HF_TC_VERSION

logger = logging.get_logger(__name__)

MODELING_FILE = "modeling_hybrid_gdn.py"
# Every class must be in a file that MODELING_FILE is or imports: only those exist where a student was loaded remotely.
AUTO_MAP = {
    "AutoConfig": "configuration_hybrid_gdn.HybridGDNConfig",
    "AutoModel": "modeling_hybrid_gdn.HybridGDNModel",
    "AutoModelForCausalLM": "modeling_hybrid_gdn.HybridGDNForCausalLM",
    "AutoModelForQuestionAnswering": "modeling_hybrid_gdn.HybridGDNForQuestionAnswering",
    "AutoModelForSequenceClassification": "modeling_hybrid_gdn.HybridGDNForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_hybrid_gdn.HybridGDNForTokenClassification",
}


class SelfContainedSaveMixin(PreTrainedModel):
    """Replaces `save_pretrained` and `push_to_hub` of a PreTrainedModel; comes before it among the bases.

    `tokenizer` and `conversion_report` may be set on a student; then they are saved with it. hf_tc, where it is
    installed, sets `save_extras`, which writes the report and the model card, and `load_extras`, which gives a
    student that is loaded its report again.
    """

    tokenizer: Any = None
    conversion_report: Any = None
    save_extras: ClassVar[Callable[[Any, Path, str], None] | None] = None
    load_extras: ClassVar[Callable[[Any, str | os.PathLike[str], dict[str, Any]], None] | None] = None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in `PreTrainedModel`, and the report beside the weights where hf_tc is installed."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        student = loaded[0] if isinstance(loaded, tuple) else loaded
        if student.load_extras is not None and pretrained_model_name_or_path is not None:
            student.load_extras(pretrained_model_name_or_path, kwargs)
        return loaded

    @classmethod
    def is_remote_code(cls) -> bool:
        return False  # or the library would copy the code as well

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        *args: Any,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes weights, configuration, code and whatever is known beside them: tokenizer, report, model card.

        Args:
            save_directory, is_main_process, state_dict, push_to_hub, args, kwargs: as in
                `PreTrainedModel.save_pretrained`.
            repo_id: the name by which the model card loads the student, and with `push_to_hub` the repository that the
                folder is uploaded to. Defaults to the folder's own name.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file. Give a folder to save the student in.")
        repo_id = repo_id or folder.resolve().name
        upload = {name: kwargs.pop(name) for name in UPLOAD_OPTIONS if name in kwargs}
        writes = self.should_save_on_this_rank(is_main_process)
        if push_to_hub and writes:
            repo_id = create_repository(repo_id, upload.pop("private", None), upload.get("token"))
        for name, value in code_fields().items():
            setattr(self.config, name, value)
        super().save_pretrained(folder, is_main_process, state_dict, False, *args, **kwargs)
        if not writes:
            return
        if not getattr(self, "_hf_peft_config_loaded", False):  # an adapter is saved without its model
            remove_stale_weights(folder)
            copy_code(folder)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(folder)
            if self.save_extras is not None:
                self.save_extras(folder, repo_id)
            elif push_to_hub or (folder / "README.md").exists():
                logger.warning_once(CARD_WARNING)
        if push_to_hub:
            check_finite_files(folder)
            upload_folder(folder, repo_id, **upload)

    # The library's, a copy made by `functools.wraps`, is typed as a function of another class.
    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, max_shard_size: int | str | None = "50GB", tags: list[str] | None = None, **options: Any
    ) -> CommitInfo:
        """Uploads the folder that `save_pretrained` writes.

        Args:
            repo_id: `user/name`, or `name` under your own account.
            max_shard_size: as in `save_pretrained`.
            tags: further tags of the model card, which hf_tc writes where it is installed.
            options: `private`, `token`, `revision`, `create_pr`, `commit_message`, `commit_description`.
        """
        unknown = set(options) - set(UPLOAD_OPTIONS)
        if unknown:
            raise TypeError(f"push_to_hub does not know {sorted(unknown)}; it takes {', '.join(UPLOAD_OPTIONS)}.")
        repo_id = create_repository(repo_id, options.pop("private", None), options.get("token"))
        self.add_model_tags(tags or [])
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size, repo_id=repo_id)
            if self.save_extras is None:
                logger.warning_once(CARD_WARNING)
            check_finite_files(folder)
            return upload_folder(folder, repo_id, **options)


CARD_WARNING = (
    "hf_tc is not imported, so no model card was written, and one that is there already may have figures of other "
    "weights. Save the student where hf_tc is imported to have it renewed."
)
UPLOAD_OPTIONS = ("private", "token", "revision", "create_pr", "commit_message", "commit_description")


def code_files(folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """The files of the student's code: the modeling file and everything that it imports from beside it.

    Args:
        folder: of a student; this code's own files by default.

    Raises:
        FileNotFoundError: one of them is missing; its `filename` says which.
    """
    modeling = Path(__file__).with_name(MODELING_FILE) if folder is None else Path(folder) / MODELING_FILE
    return sorted({modeling, *map(Path, get_relative_import_files(modeling))})


def code_sha256(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def code_fields() -> dict[str, Any]:
    """What a student's configuration says of the code that is saved beside it."""
    return {"auto_map": dict(AUTO_MAP), "hf_tc_version": HF_TC_VERSION, "code_sha256": code_sha256(code_files())}


def copy_code(folder: Path) -> None:
    """Copies the student's code into `folder`, flat."""
    for source in code_files():
        if source.resolve() != (folder / source.name).resolve():
            shutil.copyfile(source, folder / source.name)


def remove_stale_weights(folder: Path) -> None:
    """Of sharded and unsharded weights that a folder holds both of, removes the older.

    The library leaves them when a student is saved over another one, and would load the unsharded ones, even if old.
    """
    index, single = folder / SAFE_WEIGHTS_INDEX_NAME, folder / SAFE_WEIGHTS_NAME
    if index.exists() and single.exists():
        min(index, single, key=lambda path: path.stat().st_mtime_ns).unlink()


def check_finite_files(folder: str | os.PathLike[str]) -> None:
    """Raises ValueError for the first weight in a folder, by file, that is NaN or infinite; reads one at a time."""
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # it is no dictionary
                if not weights.get_tensor(name).float().isfinite().all():
                    raise ValueError(
                        f"{name} in {file} has values that are NaN or infinite; every weight must be finite. Push a "
                        "student from before its training diverged."
                    )


def create_repository(repo_id: str, private: bool | None = None, token: str | bool | None = None) -> str:
    """Creates the model repository on the Hub if need be, and returns its full name, `user/name`."""
    return HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id


def upload_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
) -> CommitInfo:
    """Makes the weights and files of a repository those of `folder`, in one commit."""
    api = HfApi(token=token)
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=Path(folder),
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message or "Upload student",
        commit_description=commit_description,
        delete_patterns=["*.safetensors", SAFE_WEIGHTS_INDEX_NAME],  # shards of an earlier upload
        # Of a trainer; as the library does, what begins with _, such as text; and nothing pickled.
        ignore_patterns=["checkpoint-*/**", "_*", "*.bin", "*.pt", "*.pth", "*.pkl"],
    )
