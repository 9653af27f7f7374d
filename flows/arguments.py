"""How the command line refuses what it does not know, and says of each command what it does."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that names what was meant: a verb or an action by another spelling, an option of the command
    that was asked for.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse does; the command that was asked for refuses itself what it does not know, and words
        that nothing can be called.
        """
        if not self._subparsers:
            self._hold_to_words(sys.argv[1:] if args is None else args)
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown and not self._subparsers:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def _hold_to_words(self, words: Sequence[str]) -> None:
        for before, word in zip(["", *words], words, strict=False):
            option, equals, value = word.partition("=")
            if not word or (equals and not value and option.startswith("--")):
                named = option or before
                of = f" of {named}" if named.startswith("--") else ""
                self.error(f"a word{of} is empty ('' in quotes): write what is meant, or leave it out")
            if not word.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in word):
                self.error(f"{word!a} is no UTF-8: write it in that encoding")

    def error(self, message: str) -> NoReturn:
        """Exit with 2, the usage, what is wrong, and what may have been meant."""
        refused = re.search(r"invalid choice: '(.*?)' \(choose|unrecognized arguments:.*?(--[\w-]+)", message)
        if refused is not None:
            from transforms.relations import close  # only who is refused waits for it

            known = self._words(is_option=refused[1] is None)
            message = f"{message}.{close(refused[1] or refused[2], known)}"
        super().error(message)

    def _words(self, *, is_option: bool) -> list[str]:
        if is_option:
            return [word for action in self._actions for word in action.option_strings]
        return [word for action in self._actions for word in action.choices or ()]


def add(parsers: argparse._SubParsersAction[Parser], name: str, does: str) -> Parser:
    """Add a command. What it does stands in the list of commands and above its own options."""
    return parsers.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
