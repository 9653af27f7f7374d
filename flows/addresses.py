"""What an address of a network says of where it leads."""

from __future__ import annotations

import ipaddress
from contextlib import suppress


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine, seen by nobody else. A name other than localhost is not looked up."""
    with suppress(ValueError):
        return ipaddress.ip_address(host or "").is_loopback
    return host == "localhost"
