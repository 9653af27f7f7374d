"""The words of a model's SQL, and the items of its final select.

A scanner and no parser: it knows comments, quotes and brackets, which is all it takes to find the casts and
the trailing comments. It costs a millisecond a file; a full parse (sqlglot, for lineage) costs a hundred
times that, too much for every command that only wants to know which tables there are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transforms.contract import ContractError

Kind = Literal["comment", "string", "quoted", "number", "word", "symbol"]

_TOKEN = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*.*?\*/)
  | (?P<string>[eE]?'(?:[^']|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
  | (?P<quoted>"(?:[^"]|"")*")
  | (?P<number>\d[\w.]*)
  | (?P<word>[^\W\d]\w*)
  | (?P<symbol>::|->>|->|<=|>=|<>|!=|\|\||=>|:=|\S)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING = {"(", "[", "{"}
_CLOSING = {")", "]", "}"}
_SET_OPERATIONS = {"union", "intersect"}
_ENDS_SELECT_LIST = {
    *("from", "where", "group", "having", "window", "qualify", "order", "limit", "offset"),
    *("using", "union", "intersect", "except", ";"),
}


@dataclass(frozen=True)
class Token:
    """One word, as written; `depth` counts the brackets around it."""

    kind: Kind
    text: str
    line: int
    end_line: int
    depth: int
    end: int
    """Where it ends in the text."""

    def is_word(self, *words: str) -> bool:
        """Whether this is one of these unquoted words, in any case."""
        return self.kind == "word" and self.text.lower() in words

    def is_symbol(self, *symbols: str) -> bool:
        """Whether this is one of these symbols."""
        return self.kind == "symbol" and self.text in symbols


@dataclass(frozen=True)
class Item:
    """One item of the final select: `expression::type as name, -- documentation`."""

    name: str
    expression: tuple[Token, ...]
    type: str | None
    documentation: str
    line: int


def scan(sql: str) -> list[Token]:
    """Every token of `sql`, comments included, in order."""
    tokens: list[Token] = []
    depth, line, position = 0, 1, 0
    for match in _TOKEN.finditer(sql):
        line += sql.count("\n", position, match.start())
        text = match.group()
        end_line = line + text.count("\n")
        kind: Kind = match.lastgroup if match.lastgroup != "tag" else "string"  # type: ignore[assignment]
        if match.group("string") is not None:
            kind = "string"
        if kind == "symbol" and text in _CLOSING:
            depth -= 1
        tokens.append(Token(kind, text, line, end_line, depth, match.end()))
        if kind == "symbol" and text in _OPENING:
            depth += 1
        line, position = end_line, match.end()
    return tokens


def text_of(tokens: Sequence[Token]) -> str:
    """The tokens as one line of SQL in which spaces, line breaks, comments and the case of words say
    nothing."""
    return " ".join(
        token.text.lower() if token.kind == "word" else token.text
        for token in tokens
        if token.kind != "comment"
    )


def final_select(sql: str, where: str) -> list[Item]:
    """The items of the last select outside all brackets.

    `where` names the file in errors. Raises ContractError for a set operation outside all brackets, a bare
    `*` or an item without `as name`: all of them leave columns unnamed.
    """
    return _final_select(sql, where)[0]


def with_line(sql: str, item: str, where: str) -> str:
    """The text with one more item in a line of its own behind the last one of its final select, as a person
    writes it. Raises ContractError as `final_select` does.
    """
    items, end = _final_select(sql, where)
    break_ = sql.find("\n", end)
    rest = sql[end:] if break_ < 0 else sql[end:break_]
    if not items or (rest.strip() and not rest.lstrip().startswith("--")):
        return with_items(sql, [item], where)
    line = sql.split("\n")[items[-1].line - 1]
    indent = line[: len(line) - len(line.lstrip())]
    return f"{sql[:end]},{rest}\n{indent}{item}{sql[end + len(rest) :]}"


def with_items(sql: str, added: Sequence[str], where: str) -> str:
    """The text with more items behind the last one of its final select, on the line where that ends.

    Raises ContractError as `final_select` does.
    """
    _, end = _final_select(sql, where)
    return "".join((sql[:end], *(f", {item}" for item in added), sql[end:]))


def _final_select(sql: str, where: str) -> tuple[list[Item], int]:
    """The items, and where the last one ends in the text."""
    tokens = scan(sql)
    start = _position_of_final_select(tokens, where)
    items: list[Item] = []
    end = tokens[start - 1].end
    current: list[Token] = []
    index = start
    while index < len(tokens):
        token = tokens[index]
        if token.kind == "comment":
            index += 1
            continue
        if token.depth == 0 and token.is_symbol(","):
            items.append(_item(current, _trailing_comment(tokens, index), where))
            current, end = [], current[-1].end
        elif _ends_list(token, current):
            break
        else:
            current.append(token)
        index += 1
    if current:
        last = max(i for i in range(start, index) if tokens[i] is current[-1])
        items.append(_item(current, _trailing_comment(tokens, last), where))
        end = current[-1].end
    return items, end


def _ends_list(token: Token, before: Sequence[Token]) -> bool:
    if token.depth != 0 or not (token.is_word(*_ENDS_SELECT_LIST) or token.is_symbol(";")):
        return False
    # `a is distinct from b` holds a `from` that ends nothing.
    return not (token.is_word("from") and before and before[-1].is_word("distinct"))


def _position_of_final_select(tokens: Sequence[Token], where: str) -> int:
    position = None
    for index, token in enumerate(tokens):
        if token.depth != 0:
            continue
        if token.is_word(*_SET_OPERATIONS):
            raise ContractError(
                f"{where}:{token.line}: a {token.text} outside all brackets hides what the columns are. "
                "Put it in a CTE and select from that, one `expression::type as name,` a line."
            )
        if token.is_word("select"):
            position = index
    if position is None:
        raise ContractError(f"{where}: it has no final select. End the file with `select … from …`.")
    position += 1
    code = [index for index in range(position, len(tokens)) if tokens[index].kind != "comment"]
    if code and tokens[code[0]].is_word("distinct", "all"):
        position = code[0] + 1
        if len(code) > 1 and tokens[code[1]].is_word("on"):
            closing = (i for i in code[2:] if tokens[i].depth == 0 and tokens[i].is_symbol(")"))
            position = next(closing, code[1]) + 1
    return position


def _trailing_comment(tokens: Sequence[Token], index: int) -> str:
    """The comment that stands behind token `index` on the line where it ends."""
    for token in tokens[index + 1 :]:
        if token.line != tokens[index].end_line or token.kind != "comment":
            break
        return token.text.removeprefix("--").removeprefix("/*").removesuffix("*/").strip()
    return ""


def _item(tokens: Sequence[Token], documentation: str, where: str) -> Item:
    if not tokens:
        raise ContractError(f"{where}: the final select has an empty item. Take the extra comma out.")
    line = tokens[0].line
    named = len(tokens) >= 3 and tokens[-2].depth == 0 and tokens[-2].is_word("as")
    if not named or tokens[-1].kind not in {"word", "quoted"}:
        shown = text_of(tokens)[:60]
        raise ContractError(
            f"{where}:{line}: `{shown}` has no name of its own. "
            "Write every item of the final select as `expression::type as name, -- documentation`."
        )
    name = tokens[-1].text.strip('"').replace('""', '"')
    expression = tuple(tokens[:-2])
    return Item(name, expression, _cast_type(expression), documentation, line)


def _cast_type(expression: Sequence[Token]) -> str | None:
    """The type of the cast that an expression ends with, as written; None when it ends with something
    else."""
    last = max((i for i, t in enumerate(expression) if t.depth == 0 and t.is_symbol("::")), default=None)
    if last is not None:
        return _type_text(expression[last + 1 :])
    is_call = (
        len(expression) > 3 and expression[0].is_word("cast", "try_cast") and expression[1].is_symbol("(")
    )
    closing = [i for i, t in enumerate(expression) if t.depth == 0 and t.is_symbol(")")]
    if is_call and closing and closing[0] == len(expression) - 1:
        inner = [i for i, t in enumerate(expression) if t.depth == 1 and t.is_word("as")]
        if inner:
            return _type_text(expression[inner[-1] + 1 : -1])
    return None


def _type_text(tokens: Sequence[Token]) -> str:
    text = " ".join(token.text for token in tokens)
    return re.sub(r"\s*([(),\[\]])\s*", r"\1", text).replace(",", ", ")
