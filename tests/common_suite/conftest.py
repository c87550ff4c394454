# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Puts the library's tests on the path and prints why tests were skipped.

Every tier of the source distribution:      pytest tests/common_suite
Everything, with a checkout at the same tag: HF_TC_TRANSFORMERS_CHECKOUT=/path RUN_SLOW=1 pytest tests/common_suite
"""

import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from build_root import RegistryUnreachableError, build_root, checkout
from rich.console import Console
from rich.table import Table

MARKERS = ("generate", "is_pipeline_test", "torch_export_test", "torch_compile_test", "flash_attn_test")
MARKERS += ("flash_attn_3_test", "flash_attn_4_test", "all_flash_attn_test", "is_tensor_parallel_test")
MARKERS += ("is_training_test", "is_fsdp_test", "is_tp_test", "is_ep_test", "is_staging_test", "not_device_test")
MARKERS += ("accelerate_tests", "slow")


NAMES_OF_TESTS = re.compile(r"^\S+::\S+ is skipped: | for `Test\w+`")
PIPELINE_MODELS = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: of the library's common tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The library's tests may call what the library deprecates; some are about just that."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("default::FutureWarning"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Finds the library's tests before the file that imports them; without them it is skipped, in CI it fails."""
    if collection_path.name != "test_common.py" or "tests.test_modeling_common" in sys.modules:
        return None
    try:
        root = build_root()
    except RegistryUnreachableError as error:
        if os.environ.get("CI") == "true":
            raise
        os.environ["HF_TC_COMMON_SUITE_UNREACHABLE"] = str(error)
        return None
    sys.path.insert(0, str(root))
    if checkout() is not None:
        from pipeline_models import save_pipeline_models

        config.stash[PIPELINE_MODELS] = tempfile.TemporaryDirectory()
        os.environ["TRANSFORMERS_TINY_MODEL_PATH"] = config.stash[PIPELINE_MODELS].name
        save_pipeline_models(Path(config.stash[PIPELINE_MODELS].name))
    # Distributed tests start processes that import the test classes anew, by name.
    paths = [str(root), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason for which common tests were skipped."""
    reports = [r for r in terminalreporter.stats.get("skipped", ()) if "common_suite" in r.nodeid]
    if not reports:
        return
    texts = [str(r.longrepr[2] if isinstance(r.longrepr, tuple) else r.longrepr) for r in reports]
    reasons = Counter(NAMES_OF_TESTS.sub("", text.removeprefix("Skipped: ")) for text in texts)
    table = Table("tests", "reason", title=f"Skipped common tests: {len(reports)}")
    for reason, count in reasons.most_common():
        table.add_row(str(count), reason)
    Console(file=terminalreporter._tw._file, width=120).print(table)
