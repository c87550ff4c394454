# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the pages say is there: files, headings, commands, options and the names in the examples."""

import argparse
import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_tc.cli.main import build_parser
from hf_tc.convert import from_teacher

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = (".docs", ".github", "hf_tc", "model_cards", "modeling", "tests")
PAGES = [ROOT / "README.md", *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md")))]
OF_THE_LIBRARY = {"--trust-remote-code"}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def python_blocks() -> Iterator[tuple[str, str]]:
    for page in (ROOT / "README.md", ROOT / "hf_tc" / "README.md"):
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            yield page.relative_to(ROOT).as_posix(), block


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown viewers make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for parser in action.choices.values():
        parser.format_help()  # some add their options when they are needed
    return dict(action.choices)


def test_readme_is_short_and_has_the_two_commands() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert "pip install . && hf-tc demo" in lines
    assert "pip install --use-pep517 -e '.[test]' && pytest" in lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^()\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target) or "{{" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


def test_the_command_table_is_the_command_line() -> None:
    told: dict[str, str] = {}
    for name, row in re.findall(r"^\| `hf-tc ([\w-]+)(.*)$", README, flags=re.MULTILINE):
        told[name] = told.get(name, "") + row
    commands = subcommands()
    assert told.keys() == commands.keys()
    everywhere = {option for command in commands.values() for option in command._option_string_actions}
    for name, row in told.items():
        options = set(re.findall(r"--[a-z][a-z-]*", row)) - OF_THE_LIBRARY
        assert options <= everywhere, name
        synopsis = set(re.findall(r"--[a-z][a-z-]*", row.split("|")[0]))
        assert synopsis <= set(commands[name]._option_string_actions), name


def test_the_quickstart_is_short() -> None:
    quickstart = next(block for page, block in python_blocks() if page == "README.md")
    code = [line for line in quickstart.splitlines() if line.strip() and not line.startswith(("from ", "import "))]
    assert len(code) <= 15


@pytest.mark.parametrize(("page", "block"), list(python_blocks()))
def test_names_in_the_examples_exist(page: str, block: str) -> None:
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), alias.name
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_teacher":
            inspect.signature(from_teacher).bind(*node.args, **{str(k.arg): k.value for k in node.keywords})


@pytest.mark.parametrize("folder", ["hf_tc", "modeling"])
def test_the_maps_name_what_is_there(folder: str) -> None:
    """Every file in a map exists, and every module of the folder is in it."""
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in (ROOT / folder).rglob("*.py")} - {"__init__.py"}
    map_of_files = "\n".join(re.findall(r"^\| `.*$", text, flags=re.MULTILINE))
    told = set(re.findall(r"`([a-z_0-9]+\.py)`", map_of_files))
    assert told <= files, told - files
    of_commands = {name.replace("-", "_") + ".py" for name in subcommands()} | {"shared.py"}  # told as a whole
    assert files - told <= of_commands, files - told - of_commands
    for name in re.findall(r"`([a-z_]+/[a-z_]*(?:\.py)?)`", text):
        assert (ROOT / folder / name).exists(), name
