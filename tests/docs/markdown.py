"""What a page of the documentation says, taken apart: files to write, commands with what they print."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of prose that stands before it."""

    language: str
    text: str
    before: str


@dataclass(frozen=True)
class Command:
    """A command and what the page says that it prints; `…` stands for anything, alone on a line for any
    number of lines.
    """

    words: str
    prints: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(text):
        prose = text[: match.start()].rstrip().splitlines()
        found.append(Block(match.group(1), match.group(2), prose[-1] if prose else ""))
    return found


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def files(text: str) -> dict[str, str]:
    """Files that a page has one write: path → text. The prose before the block ends with the path and a
    colon.
    """
    found = {}
    for block in blocks(text):
        named = re.search(r"`([\w/]+\.(?:sql|py|yaml))`:$", block.before)
        if named:
            found[named.group(1)] = block.text
    return found


def commands(text: str) -> Iterator[Command]:
    """The commands of the `console` blocks of a page."""
    for block in blocks(text):
        if block.language == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                words, _, prints = part.partition("\n")
                yield Command(words, prints)


def checklist(text: str) -> Iterator[Command]:
    """The commands of the table under `## Checklist`, each with the line that shows its item."""
    for row in re.findall(r"^\|.*\|$", section(text, "Checklist"), re.MULTILINE)[2:]:
        _, words, line = (cell.strip().strip("`") for cell in row.strip("|").split("|"))
        yield Command(words, f"…\n{line}\n…\n")


def matches(prints: str, printed: str) -> bool:
    """Whether a command printed what a page says. Spaces at ends of lines don't count."""

    def pattern(lines: Sequence[str]) -> str:
        any_lines, anything = r"(?:.*\n)*?", r".*?"
        return "".join(
            any_lines if line.strip() == "…" else anything.join(map(re.escape, line.split("…"))) + r"\s*?\n"
            for line in lines
        )

    text = "\n".join(line.rstrip() for line in printed.strip().splitlines()) + "\n"
    return re.fullmatch(pattern([line.rstrip() for line in prints.strip().splitlines()]), text) is not None
