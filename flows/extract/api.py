"""Where the API of a list is, as the settings say, and how patiently it is asked."""

from __future__ import annotations

from typing import Any

from flows.extract import oauth
from flows.extract.http import RestConnection, check_base
from flows.settings import Settings
from transforms.entities import Rest, SourceEntity


def connection(settings: Settings, entity: SourceEntity, **limits: Any) -> RestConnection:
    """The connection to the API of a list; `limits` are fields of it. Raises SettingsError where a setting is
    missing, RefusedError where an address is none that the key may be sent to, or the key none of its kind.
    """
    assert isinstance(entity.read, Rest)
    url = settings.require(f"{entity.source}_url")
    check_base(entity.source, url)
    key = "" if entity.read.api.auth == "none" else settings.require(f"{entity.source}_key")
    connection = RestConnection(url, key, **limits)
    if entity.read.api.auth == "oauth2":
        oauth.check(entity.place, connection, entity.read.api)
    return connection
