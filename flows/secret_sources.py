"""Settings that stand somewhere else: in a file, or in a Secret block of Prefect's server.

`ANALYTICS_STRIPE_KEY_FILE=/run/secrets/stripe` reads the key from that file, as Docker, Kubernetes and
systemd hand secrets over; `ANALYTICS_STRIPE_KEY_BLOCK=stripe` from the block of that name. Every setting has
both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
)

from flows.api_settings import is_of_an_api
from flows.scrubbing import scrubbed

if TYPE_CHECKING:
    import httpx

FILE, BLOCK = "_FILE", "_BLOCK"
_MAX_BYTES = 1 << 20
_OF_AN_API = FieldInfo(annotation=str)
_TYPE = "secret"
"""What Prefect calls the type of such blocks."""


class Elsewhere(PydanticBaseSettingsSource):
    """The source of such settings. A setting that is given directly, too, is refused: nobody could say which
    of both counts.
    """

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        # What is in the environment counts before what is in .env, as everywhere.
        self._given = {
            **DotEnvSettingsSource(settings_cls).env_vars,
            **EnvSettingsSource(settings_cls).env_vars,
        }
        self._prefix = str(self.config.get("env_prefix", ""))

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of one setting, its name, and whether it is to be read as JSON."""
        name = f"{self._prefix}{field_name}".upper()
        path, block = self._value(name + FILE), self._value(name + BLOCK)
        ways = [way for way in (name, name + FILE, name + BLOCK) if self._value(way)]
        if path is None and block is None:
            return None, field_name, False
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are both set")
        value = _of_file(path) if path is not None else _of_block(str(block))
        if not value:
            raise _EmptyError
        return value, field_name, self.field_is_complex(field)

    def __call__(self) -> dict[str, Any]:
        """Every setting that stands elsewhere. Raises ElsewhereError."""
        found: dict[str, Any] = {}
        fields = self.settings_cls.model_fields
        for name in (*fields, *(self._of_apis() - {*fields})):
            field = fields.get(name, _OF_AN_API)
            try:
                value, key, is_complex = self.get_field_value(field, name)
                if value is not None:
                    found[key] = self.prepare_field_value(name, field, value, is_complex)
            except Exception as error:  # noqa: BLE001 - told by its kind alone: its text may hold the secret
                raise ElsewhereError(f"{self._prefix}{name}".upper(), error) from None
        return found

    def _of_apis(self) -> set[str]:
        """The settings of APIs that stand elsewhere, by the variables that say where."""
        prefix = self._prefix.lower()
        named = (name.lower().removeprefix(prefix) for name in self._given if name.lower().startswith(prefix))
        parts = {name.removesuffix(suffix.lower()) for name in named for suffix in (FILE, BLOCK)}
        return {name for name in parts if is_of_an_api(name)}

    def _value(self, name: str) -> str | None:
        value = self._given.get(name.lower(), self._given.get(name))
        return value or None


class ElsewhereError(Exception):
    """A setting that stands elsewhere can't be had. The text says what to do, names setting and place, and
    holds no secret.
    """

    def __init__(self, name: str, error: Exception) -> None:
        correct = "Correct it in the environment or in .env."
        if isinstance(error, _NoBlockError):
            reason = f"{name}{BLOCK} names {error}"
        elif isinstance(error, _EmptyError):
            reason = f"What {name}{FILE} or {name}{BLOCK} names is empty. {correct}"
        elif isinstance(error, OSError):
            file = f"a file that can't be read ({error.strerror}): {error.filename}"
            reason = f"{name}{FILE} names {file}. {correct}"
        elif isinstance(error, UnicodeDecodeError):
            reason = f"{name}{FILE} names a file that is no text. {correct}"
        elif str(error).endswith("both set"):
            reason = f"{error}; remove one of them. {correct}"
        else:
            reason = f"What {name}{FILE} or {name}{BLOCK} names is not what {name} has to be. {correct}"
        super().__init__(reason)


class _EmptyError(Exception):
    """Somebody has said where a setting stands, and nothing stands there."""


class _NoBlockError(Exception):
    """A block that can't be had; the text goes on where `…_BLOCK names` ends."""


def _of_file(path: str) -> str:
    """The file's text without the line's end that editors leave."""
    with Path(path).expanduser().open("rb") as handle:
        return handle.read(_MAX_BYTES).decode("utf-8").rstrip("\r\n")


def _of_block(name: str) -> str:
    """The block's value, character by character (its own `get` reads text as JSON: `1e3` would be 1000.0);
    what is no text there, as JSON. Raises _NoBlockError.
    """
    from flows.sandbox.prefect_server import QUIET, use_prefect

    use_prefect(QUIET)  # Prefect reads the environment when it is imported, which may be here
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import get_current_settings

    address = get_current_settings().api.url
    if address is None:
        raise _NoBlockError(
            "a Secret block, and nothing says which Prefect server has it: set PREFECT_API_URL."
        )
    server = scrubbed(address, ())
    try:
        with get_client(sync_client=True) as client:
            block = client.read_block_document_by_name(name.removeprefix(f"{_TYPE}/"), _TYPE)
    except ObjectNotFound:
        raise _NoBlockError(
            f"the Secret block {name}, which the Prefect server at {server} does not have: make it there "
            "(Blocks, Secret), or correct the name; `prefect block ls` shows those it has."
        ) from None
    except httpx.HTTPError as error:
        raise _NoBlockError(
            f"a Secret block, and the Prefect server at {server} does not give it ({_said(error)}): see "
            "whether it runs, and correct PREFECT_API_URL (or PREFECT_API_KEY, PREFECT_API_AUTH_STRING)."
        ) from None
    value = block.data["value"]
    return value if isinstance(value, str) else json.dumps(value)


def _said(error: httpx.HTTPError) -> str:
    """What went wrong in a word: the status that was answered, or the kind of error."""
    response = getattr(error, "response", None)
    return f"it answers {response.status_code}" if response is not None else type(error).__name__
