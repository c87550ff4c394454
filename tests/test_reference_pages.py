# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The pages of the API reference: what is public stands on one of them, and what stands on one of them exists.

`.ci/run` builds the site; its links and docstrings are checked there.
"""

import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import hf_tc
import hf_tc.config
import hf_tc.modeling

FOLDER = Path(__file__).parents[1] / ".docs"
PAGES = {
    page.relative_to(FOLDER / "pages").as_posix(): page.read_text(encoding="utf-8") for page in FOLDER.rglob("*.md")
}
TOLD = [name for text in PAGES.values() for name in re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)]


def test_every_public_name_is_told_once() -> None:
    names = [name.rsplit(".", 1)[-1] for name in TOLD]
    assert len(names) == len(set(names))
    public = {*hf_tc.PUBLIC, *hf_tc.modeling.__all__}
    assert public <= set(names), public - set(names)


def found(name: str) -> Any:
    return pkgutil.resolve_name(":".join(name.rsplit(".", 1)))  # an attribute of its module


@pytest.mark.parametrize("name", TOLD)
def test_every_name_exists(name: str) -> None:
    assert found(name).__doc__


@pytest.mark.parametrize("name", [name for name in TOLD if callable(found(name))])
def test_every_argument_that_is_told_of_exists(name: str) -> None:
    text = inspect.cleandoc(found(name).__doc__)
    section = re.search(r"^Args:\n((?:(?: .*)?\n)*)", f"{text}\n", flags=re.MULTILINE)
    lines = re.findall(r"^    (\w[\w, ]*)(?: \(.*?\))?:", section[1] if section else "", flags=re.MULTILINE)
    told = {argument for line in lines for argument in line.split(", ")}
    assert told <= set(inspect.signature(found(name)).parameters)
    assert told or not section


@pytest.mark.parametrize("name", ["convert.select_layers", "planning.plan.plan_conversion"])
def test_options_are_shown_as_the_function_takes_them(name: str) -> None:
    griffe = pytest.importorskip("griffe")  # of the extra "docs"
    extensions = griffe.load_extensions(str(FOLDER / "signatures.py"))
    package = griffe.load("hf_tc", extensions=extensions, search_paths=[FOLDER.parent])
    shown = {item.name for item in package[name].parameters}
    assert shown == inspect.signature(found(f"hf_tc.{name}")).parameters.keys()


def test_every_page_is_in_the_navigation() -> None:
    navigation = (FOLDER / "mkdocs.yml").read_text(encoding="utf-8").split("nav:")[1].split("validation:")[0]
    told = set(re.findall(r": (\S+\.md)$", navigation, flags=re.MULTILINE))
    assert set(PAGES) <= told
    assert all((FOLDER.parent / page).exists() for page in told - set(PAGES))


def test_the_command_line_is_written_by_its_parser() -> None:
    assert "<!-- commands -->" in PAGES["reference/command_line.md"]
