"""What a flow works with: the settings, the lake, the warehouse and its ledger, opened from one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from flows.settings import Settings, load
from flows.stores.joint import JointLedger
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.warehouse import Warehouse

if TYPE_CHECKING:
    from flows.openlineage.receiver import Receiver


@dataclass(frozen=True)
class Services:
    """One set of services for one process; safe to share between threads."""

    settings: Settings
    joint: JointLedger | None = None
    """The ledger whose one transaction everything belongs to; None: each commit is one."""
    halted: dict[str, str] = field(default_factory=dict)
    """Raw tables that are not to be landed now, and why."""

    @cached_property
    def lake(self) -> Lake:
        """The lake; its writing session lasts as long as this process."""
        return Lake(self.settings.lake_root, self.settings.memory_limit)

    @cached_property
    def warehouse(self) -> Warehouse:
        """The warehouse's PostgreSQL."""
        return Warehouse(self.settings.require("warehouse_dsn"))

    @cached_property
    def openlineage(self) -> Receiver | None:
        """Who is told what is made of what; None: nobody."""
        if not self.settings.openlineage:
            return None
        from flows.openlineage.receiver import Receiver

        return Receiver.of(self.settings)

    def within(self, ledger: JointLedger) -> Services:
        """The same lake and warehouse; what is committed becomes true with that ledger's transaction."""
        services = replace(self, joint=ledger)
        vars(services).update(lake=self.lake, warehouse=self.warehouse, openlineage=self.openlineage)
        return services

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger over a connection of its own: advisory locks belong to a connection."""
        if self.joint is not None:
            yield self.joint
            return
        with self.warehouse.connect() as connection:
            yield Ledger(connection)


def open_services() -> Services:
    """Services as the environment says now. Raises SettingsError."""
    return Services(load())
