"""Settings that stand somewhere else: in a file, or in a Secret block of Prefect's server.

`ANALYTICS_STRIPE_KEY_FILE=/run/secrets/stripe` reads the key from that file, as Docker, Kubernetes and
systemd hand secrets over; `ANALYTICS_STRIPE_KEY_BLOCK=stripe` from the block of that name. Every setting has
both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
)

FILE, BLOCK = "_FILE", "_BLOCK"
_MAX_BYTES = 1 << 20


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
        return value, field_name, self.field_is_complex(field)

    def __call__(self) -> dict[str, Any]:
        """Every setting that stands elsewhere. Raises ElsewhereError."""
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            try:
                value, key, is_complex = self.get_field_value(field, name)
                if value is not None:
                    found[key] = self.prepare_field_value(name, field, value, is_complex)
            except Exception as error:  # noqa: BLE001 - told by its kind alone: its text may hold the secret
                raise ElsewhereError(f"{self._prefix}{name}".upper(), error) from None
        return found

    def _value(self, name: str) -> str | None:
        value = self._given.get(name.lower(), self._given.get(name))
        return value or None


class ElsewhereError(Exception):
    """A setting that stands elsewhere can't be had. The text names setting and place and holds no secret."""

    def __init__(self, name: str, error: Exception) -> None:
        if isinstance(error, OSError):
            reason = f"{name}{FILE} names a file that can't be read ({error.strerror}): {error.filename}"
        elif isinstance(error, UnicodeDecodeError):
            reason = f"{name}{FILE} names a file that is no text"
        elif str(error).endswith("both set"):
            reason = f"{error}; remove one of them"
        else:
            reason = (
                f"{name}{BLOCK} names a Secret block that Prefect's server does not give "
                f"({type(error).__name__}). See `prefect block ls`"
            )
        super().__init__(reason)


def _of_file(path: str) -> str:
    """The file's text without the line's end that editors leave."""
    with Path(path).expanduser().open("rb") as handle:
        return handle.read(_MAX_BYTES).decode("utf-8").rstrip("\r\n")


def _of_block(name: str) -> str:
    from prefect.blocks.system import Secret

    value: Any = Secret.load(name).get()  # type: ignore[union-attr]
    return value if isinstance(value, str) else str(value)
