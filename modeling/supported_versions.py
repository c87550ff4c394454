# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The release of this code, and the releases of Transformers that it was tested with; setup.py reads both here.

Importing it checks the release of Transformers, so it is to be imported before anything of Transformers. How to raise
the bound: .github/CONTRIBUTING.md.
"""

HF_TC_VERSION = "0.1.0.dev0"
OLDEST_TRANSFORMERS = "5.15"
NEWEST_TRANSFORMERS = "5.24"


def transformers_bounds() -> str:
    """For pip: from the oldest minor release that was tested up to all of the newest one, such as ">=5.15,<5.25"."""
    major, minor = NEWEST_TRANSFORMERS.split(".")
    return f">={OLDEST_TRANSFORMERS},<{major}.{int(minor) + 1}"


def check_transformers() -> None:
    """Raises `ImportError` for a Transformers older than what was tested."""
    found, oldest, _ = _minor_releases()
    if found < oldest:
        raise ImportError(
            f"hf_tc {HF_TC_VERSION} needs Transformers {OLDEST_TRANSFORMERS} or newer, this is "
            f"{_transformers_version()}. Upgrade: pip install 'transformers{transformers_bounds()}'"
        )


def warn_if_untested() -> None:
    """Says once that Transformers is newer than what was tested."""
    found, _, newest = _minor_releases()
    if found > newest:
        from transformers.utils import logging

        logging.get_logger(__name__).warning_once(
            f"hf_tc {HF_TC_VERSION} was tested with Transformers {OLDEST_TRANSFORMERS} to {NEWEST_TRANSFORMERS}, this "
            f"is {_transformers_version()}; the self-check before a conversion decides whether it works."
        )


def _transformers_version() -> str:
    import transformers

    return transformers.__version__


def _minor_releases() -> list[tuple[int, ...]]:
    """Major and minor number of Transformers as installed, of the oldest and of the newest that was tested."""
    from packaging.version import Version

    return [Version(text).release[:2] for text in (_transformers_version(), OLDEST_TRANSFORMERS, NEWEST_TRANSFORMERS)]


if __package__:  # not where setup.py runs this file
    check_transformers()
