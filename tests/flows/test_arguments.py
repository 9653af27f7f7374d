"""The command line explains itself, and names what was meant."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from flows.__main__ import parser


def _commands(top: argparse.ArgumentParser, *words: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield " ".join(words), top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from _commands(command, *words, name)


def _refusal(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """What is said of words that end the program with 2."""
    with pytest.raises(SystemExit) as refused:
        parser().parse_args(words)
    assert refused.value.code == 2
    return capsys.readouterr().err


def test_each_command_says_what_it_does_and_what_each_of_its_words_is() -> None:
    found = dict(_commands(parser()))
    assert {"plan", "schema diff", "sandbox advance"} <= found.keys()
    assert [name for name, command in found.items() if not command.description] == []
    unexplained = [
        f"{name} {action.option_strings or action.dest}"
        for name, command in found.items()
        for action in command._actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    assert unexplained == []


def test_a_word_that_may_be_left_out_stands_in_brackets() -> None:
    found = dict(_commands(parser()))
    told = {name: " ".join(command.format_usage().split()) for name, command in found.items()}
    assert told[""].endswith("[VERB] ...")
    assert told["backup"].endswith("[ACTION] ...")
    assert told["sandbox"].endswith(" ACTION ...")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["montor"], "Did you mean monitor"),
        (["sandbox", "stopp"], "Did you mean stop"),
        (["plan", "--jsno"], "usage: python -m flows plan [-h] [--json]"),
        (["plan", "--jsno"], "unrecognized arguments: --jsno. Did you mean --json?"),
        (["backup", "list", "--jsno"], "Did you mean --json?"),
        (["--debgu"], "Did you mean --debug?"),
    ],
)
def test_a_word_that_is_misspelt_is_told_with_the_one_that_is_alike(
    capsys: pytest.CaptureFixture[str], words: list[str], meant: str
) -> None:
    assert meant in " ".join(_refusal(capsys, words).split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--select", ""], "a word of --select is empty"),
        (["run", "--select="], "a word of --select is empty"),
        (["backfill", "--from", "2025-10-01", "--to", ""], "a word of --to is empty"),
        (["dlq", "list", "--entity", ""], "a word of --entity is empty"),
        (["check", ""], "a word is empty"),
        (["lake", ""], "a word is empty"),
        (["catalog", "\udcff"], "'\\udcff' is no UTF-8"),
        (["lake", "select '\udce9'"], "is no UTF-8"),
    ],
)
def test_a_word_that_is_empty_or_no_text_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    last = _refusal(capsys, words).splitlines()[-1]
    assert last.startswith(f"python -m flows {words[0]}")
    assert said in last


def test_what_is_like_nothing_is_told_with_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    said = _refusal(capsys, ["alerts", "xyzzy"])
    assert "invalid choice: 'xyzzy' (choose from" in said
    assert "mean" not in said
