"""How the command line refuses what it does not know, and says of each command what it does."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that names what was meant: a verb or an action by another spelling, an option of the command
    that was asked for.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse does; the command that was asked for refuses itself what it does not know."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown and not self._subparsers:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

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
