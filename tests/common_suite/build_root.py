# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Lays out the library's own common tests where they can be imported as the package `tests`.

They are not part of the wheel. The source distribution of the installed version holds the mixins at the top of its
`tests` folder; a checkout of the repository holds everything. Nothing of either is kept in this project.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers

CHECKOUT_VARIABLE = "HF_TC_TRANSFORMERS_CHECKOUT"
FILES = (
    "test_modeling_common.py",
    "test_configuration_common.py",
    "test_training_mixin.py",
    "test_tensor_parallel_mixin.py",
    "test_fsdp_mixin.py",
)
# What those files import and the source distribution lacks. Only a checkout can run what they would hold.
STAND_INS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "distributed_testing_utils.py": (
        "import unittest\n\n\ndef run_distributed(*args, **kwargs):\n"
        '    raise unittest.SkipTest("distributed tests need a checkout of the library")\n\n\n'
        "_get_distributed_backend = _get_distributed_device_type = run_distributed\n"
        "_get_rank_device = _set_rank_device = _start_rank_processes = run_distributed\n"
    ),
}


class RegistryUnreachableError(RuntimeError):
    """The source distribution could not be downloaded."""


def checkout() -> Path | None:
    """The checkout of the library given by `HF_TC_TRANSFORMERS_CHECKOUT`, or None.

    Raises:
        FileNotFoundError: the variable names no checkout.
    """
    folder = os.environ.get(CHECKOUT_VARIABLE)
    if not folder:
        return None
    path = Path(folder).expanduser().resolve()
    if not (path / "tests" / "causal_lm_tester.py").is_file():
        raise FileNotFoundError(f"{CHECKOUT_VARIABLE}={folder}: no tests/causal_lm_tester.py there.")
    return path


def build_root() -> Path:
    """The folder to put on `sys.path`: of the given checkout, or built from the source distribution and kept.

    Raises:
        RegistryUnreachableError: no checkout was given and pip could not download the source distribution.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hf_tc"
    given = checkout()
    if given is not None:
        return _link_checkout(given, cache / f"common-suite-checkout-{transformers.__version__}")
    root = cache / f"common-suite-{transformers.__version__}"
    if not root.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _unpack(_download(Path(folder)), Path(folder) / "root")
            try:
                os.replace(Path(folder) / "root", root)
            except OSError:
                if not root.is_dir():  # another process of pytest-xdist was first, with the same files
                    raise
    return root


def _download(folder: Path) -> Path:
    """The source distribution of the installed version. Without isolation pip needs no second setuptools."""
    version = transformers.__version__
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "transformers", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, f"transformers=={version}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    archives = list(folder.glob("transformers-*.tar.gz"))
    if result.returncode or not archives:
        last = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise RegistryUnreachableError(f"pip could not download the source of transformers {version}: {last}")
    return archives[0]


def _unpack(archive: Path, root: Path) -> None:
    tests = root / "tests"
    tests.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        top = archive.name.removesuffix(".tar.gz")
        for name in FILES:
            source = tar.extractfile(f"{top}/tests/{name}")
            assert source is not None
            (tests / name).write_bytes(source.read())
    for name, text in STAND_INS.items():
        path = tests / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for folder in {tests, *(path.parent for path in tests.rglob("*.py"))}:
        (folder / "__init__.py").touch()


def _link_checkout(given: Path, root: Path) -> Path:
    """The checkout's tests beside the installed library, where the pipeline tests look for `src/transformers`."""
    (root / "src").mkdir(parents=True, exist_ok=True)
    _link(root / "tests", given / "tests")
    _link(root / "utils", given / "utils")
    _link(root / "src" / "transformers", Path(transformers.__file__).parent)
    return root


def _link(path: Path, target: Path) -> None:
    """In one step, since the processes of pytest-xdist link the same paths."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        (Path(folder) / "link").symlink_to(target)
        os.replace(Path(folder) / "link", path)
