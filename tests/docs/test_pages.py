"""What the documentation names is there, and what is there it names."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

import pytest

from flows.__main__ import parser
from flows.alerting import delivery as alert_channel
from flows.alerting import runs
from flows.monitoring import kept
from flows.monitoring.signals import SIGNALS
from flows.monitoring.storage import WAREHOUSE
from flows.settings import Settings
from tests.docs.markdown import PAGES, ROOT, Command, blocks, commands, matches
from transforms import registry
from transforms.entities import Rest
from transforms.header import _WORDS

_OF_TESTS = {"ANALYTICS_FAILPOINT", "ANALYTICS_DEBUG"}
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#([\w-]+))?\)")


def _anchors(text: str) -> set[str]:
    """Headings as links name them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    lost = []
    for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        file = page.parent / target
        if not file.exists():
            lost.append(target)
        elif anchor and anchor not in _anchors(file.read_text(encoding="utf-8")):
            lost.append(f"{target}#{anchor}")
    assert not lost


def test_every_word_of_a_header_is_explained() -> None:
    page = (ROOT / "docs/add-a-table.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(explained) == sorted(_WORDS)


def test_every_verb_of_the_command_line_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    verbs = next(one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
    missing = [verb for verb in verbs.choices if f"python -m flows {verb}" not in readme and verb != "run"]
    assert not missing, "say in the README's table of commands what they do"


def test_declarations_shown_can_be_read() -> None:
    page = (ROOT / "docs/connect.md").read_text(encoding="utf-8")
    shown = [block.text for block in blocks(page) if block.language == "python"]
    assert len(shown) == 4
    for text in shown:
        exec(compile(ast.parse(text), "docs/connect.md", "exec"), {})


def test_console_blocks_are_told_apart_and_compared() -> None:
    page = "Say:\n\n```console\n$ flows one\na 12 b\nlast\n$ flows two\n```\n"
    assert list(commands(page)) == [Command("flows one", "a 12 b\nlast\n"), Command("flows two", "")]
    assert matches("a … b\n…\nlast\n", "a 3 b  \nx\ny\nlast\n")
    assert not matches("a … b\nlast\n", "a 3 b\nx\nlast\n")


def test_every_signal_has_its_section_in_the_runbook() -> None:
    page = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    told = {alert_channel.SIGNAL, WAREHOUSE, kept.SIGNAL, runs.SIGNAL, runs.LATE}
    sections = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert sorted(sections) == sorted(told | {signal.name for signal in SIGNALS})


def test_every_setting_is_explained() -> None:
    told = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    apis = {entity.source for entity in registry.entities() if isinstance(entity.read, Rest)}
    assert apis
    settings = {*Settings.model_fields, *(f"{api}_{word}" for api in apis for word in ("url", "key"))}
    names = {f"ANALYTICS_{name.upper()}" for name in settings} - _OF_TESTS
    assert sorted(name for name in names if f"`{name}`" not in told) == []
