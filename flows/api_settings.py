"""Where the APIs are that transforms/sources declares: `ANALYTICS_<SOURCE>_URL` and `ANALYTICS_<SOURCE>_KEY`.

The settings know no declaration: each variable of such a name is a setting, whichever source it is about.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from pydantic_settings import EnvSettingsSource

from flows import setting_checks

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

URL, KEY = "_url", "_key"
OFF = "off"
"""The address of an API that there is not: nothing declares it, and the sandbox's is not wanted either."""
_NAME = re.compile(rf"[a-z][a-z0-9]*(_[a-z0-9]+)*({URL}|{KEY})")


class ApiSettingError(ValueError):
    """The setting `name` of an API can't be what it says. The text is the reason, without a secret."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


class Unusable(SecretStr):
    """What a setting says that can't be what it says, and the `reason`, without a secret. It prints as
    stars: whatever was meant to stand there may be a secret.
    """

    def __init__(self, told: str, reason: str) -> None:
        super().__init__(told)
        self.reason = reason


class WithApis(EnvSettingsSource):
    """The environment: the settings that have a field, and those of APIs."""

    def __call__(self) -> dict[str, Any]:
        """Every one of them that is there."""
        prefix = self.env_prefix.lower()
        named = {
            name.removeprefix(prefix): value
            for name, value in self.env_vars.items()
            if name.startswith(prefix)
        }
        return {name: value for name, value in named.items() if is_of_an_api(name)} | super().__call__()


def is_of_an_api(name: str) -> bool:
    """Whether a setting of this name, in lower case and without the prefix, can be one of an API."""
    return _NAME.fullmatch(name) is not None


def variable(place: str, part: str) -> str:
    """What people set for the API of an entity (source.entity) or source: its URL or KEY."""
    return f"ANALYTICS_{place.partition('.')[0]}{part}".upper()


def url_of(name: str) -> str:
    """The name of the address of the API that a setting is about."""
    return name.rpartition("_")[0] + URL


def kept(given: Mapping[str, Any], fields: Collection[str], served: Collection[str]) -> dict[str, Any]:
    """Of what was given, what is a setting: one with a field as it is, one of an API checked.

    One that can't be what it says is refused at once where it is of an API that is `served` (raises
    ApiSettingError), else by whoever needs it: it may be about no API at all.
    """
    others = {name: value for name, value in given.items() if is_of_an_api(name) and value}
    apis: dict[str, Any] = {}
    for name, value in others.items():
        if name in fields:
            continue
        try:
            apis[name] = _checked(name, value)
        except ApiSettingError as error:
            if name in served:
                raise
            apis[name] = Unusable(_text(value), str(error))
    return {name: value for name, value in given.items() if name in fields} | apis


def refused(name: str, reason: str) -> str:
    """What to say of one that can't be what it says."""
    return f"ANALYTICS_{name.upper()} can't be used: {reason}. Correct it in the environment or in .env."


def unusable(settings: Mapping[str, Any], sources: Collection[str]) -> dict[str, str]:
    """Those that can't be used and that none of the `sources` needs, each with the reason."""
    return {
        name: value.reason
        for name, value in settings.items()
        if isinstance(value, Unusable) and name.rpartition("_")[0] not in sources
    }


def missing(name: str, address: str | None) -> str:
    """What to say of one that is needed and not set, or off, where the API has this address."""
    setting, source = f"ANALYTICS_{name.upper()}", name.rpartition("_")[0]
    if address == OFF:
        return (
            f"ANALYTICS_{url_of(name).upper()} is off, and transforms/sources declares an API '{source}'. "
            "Set it to the address, or take the declarations out."
        )
    if address is not None:
        why = f"the service of ANALYTICS_{url_of(name).upper()} asks for a key"
    else:
        why = f"transforms/sources declares an API '{source}'"
    return f"{setting} is not set, and {why}. Set it in the environment or in .env."


def place(error: ErrorDetails) -> tuple[str, ...]:
    """Which setting of an API it is that an error of validation is about, if it is one."""
    cause = error.get("ctx", {}).get("error")
    return (cause.name,) if isinstance(cause, ApiSettingError) else ()


def _checked(name: str, value: Any) -> str | SecretStr:
    """The setting as it is kept: a key prints as stars."""
    told = _text(value)
    if name.endswith(URL) and told == OFF:
        return told
    check = setting_checks.key if name.endswith(KEY) else setting_checks.address
    try:
        check(told)
    except ValueError as error:
        raise ApiSettingError(name, str(error)) from None
    return SecretStr(told) if name.endswith(KEY) else told


def _text(value: Any) -> str:
    return (value.get_secret_value() if isinstance(value, SecretStr) else str(value)).strip()
