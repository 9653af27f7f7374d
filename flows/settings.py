"""The only reader of the environment, and the only clock.

Every setting is an environment variable `ANALYTICS_<NAME>` or a line in `.env`; an empty one is not set.
Services that no setting names are taken from the running sandbox, so that nothing else in the code knows
whether it talks to the sandbox or to production.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableSetting

from flows import api_settings, failpoints, scrubbing, setting_checks
from flows.api_settings import WithApis
from flows.errors import FlowsError
from flows.secret_sources import Elsewhere, ElsewhereError

BEGUN = datetime.now(UTC).timestamp()
"""When this process began to read the code: what is newer may say something else than what it runs."""

if TYPE_CHECKING:
    from flows.sandbox.state import State

SANDBOX_FOLDER = Path(".sandbox")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SERVICES = {
    "warehouse_dsn": "the warehouse's PostgreSQL",
    "app_dsn": "the application's PostgreSQL",
    "kafka_bootstrap": "Kafka",
    "stripe_url": "Stripe",
    "sendgrid_url": "SendGrid",
}
_SANDBOX_KEYS = ("stripe_key", "sendgrid_key")
_TITLES = {
    **_SERVICES,
    "connect_url": "Kafka Connect",
    **{key: _SERVICES[api_settings.url_of(key)] for key in _SANDBOX_KEYS},
}
_CHECKS: dict[str, Callable[[Any], None]] = {
    **dict.fromkeys(("warehouse_dsn", "app_dsn", "cdc_dsn"), setting_checks.database),
    "connect_url": setting_checks.address,
    "openlineage_key": setting_checks.key,
    "memory_limit": setting_checks.size,
    "kafka_options": setting_checks.client_options,
}


class SettingsError(FlowsError):
    """A setting is missing or can't be read; the message names the variable and what to write."""


class Settings(BaseSettings):
    """What the environment says, of APIs too (flows.api_settings); secrets print as stars, empty is unset."""

    model_config = SettingsConfigDict(
        env_prefix="ANALYTICS_",
        env_file=".env",
        env_ignore_empty=True,
        str_strip_whitespace=True,
        extra="allow",
        dotenv_filtering="match_prefix",
        frozen=True,
    )

    warehouse_dsn: SecretStr | None = None
    app_dsn: SecretStr | None = None
    kafka_bootstrap: str | None = None
    kafka_options: dict[str, str] = Field(default_factory=dict)
    """Further librdkafka settings as JSON, e.g. {"security.protocol": "SASL_SSL", …}."""
    connect_url: str | None = None
    """Kafka Connect's REST API; asked for only where a table is declared as cdc."""
    cdc_prefix: str = Field(default="app", pattern=r"^[a-z][a-z0-9_]{0,39}$")
    """First word of the change topics; the slot, the publication and the connector are named by it too."""
    cdc_dsn: SecretStr | None = None
    """The application's database as Kafka Connect reaches it, where that is not `app_dsn`. Its password may
    be a reference that the worker resolves, e.g. ${env:APP_POSTGRES_PASSWORD}."""
    cdc_engine: Literal["kafka", "embedded"] = "kafka"
    """Where Debezium runs: in Kafka Connect, or in a process of ours that reads when a run lands (no broker
    is needed then for tables that are declared as cdc; `make cdc-engine` installs it)."""
    cdc_exactly_once: bool = False
    """Whether the connector must write exactly once; its worker has to offer it. Half the speed."""
    lake: Path | None = None
    sandbox: Path = SANDBOX_FOLDER
    retries: int = Field(default=3, ge=0, le=20)
    retry_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Between two tries of a task; unset: 300 in a deployment, 10 by hand, in the sandbox 1."""
    workers: int = Field(default=2, ge=1, le=64)
    """Tables that are built at the same time."""
    memory_limit: str = "1GB"
    """What one DuckDB connection may use before it spills to the lake's temporary folder."""
    dead_topics: bool = False
    """Whether the stream produces its dead letters to `<topic>.dead` too."""
    alerts: Path | None = None
    """The file that says who is told of incidents (docs/alerts.md); unset: nobody, in the sandbox a file."""
    backups: Path | None = None
    """Folder of the backups; the sandbox has its own, beside its lake."""
    backup_key: SecretStr | None = None
    """A key of age: `age1…` seals backups, `AGE-SECRET-KEY-1…` also opens them. Unset: nothing is sealed."""
    backup_raw: Literal["copy", "link", "none"] = "copy"
    """What a backup does with the lake's raw files: a link survives a deletion, a copy a disk."""
    backup_days: int = Field(default=7, ge=1, le=3660)
    """For so many days the newest backup of each day stays…"""
    backup_weeks: int = Field(default=5, ge=1, le=520)
    """…and for so many weeks that of each week. The newest of all always does."""
    metrics_port: int | None = Field(default=None, ge=0, le=65_535)
    """Where the stream answers Prometheus (docs/metrics.md); unset: nowhere; 0: any port that is free."""
    metrics_host: str = "127.0.0.1"
    """The address that is answered at, for `python -m flows metrics --serve` too."""
    metrics_folder: Path | None = None
    """Where a run leaves its numbers, for node_exporter's textfile collector; unset: nowhere."""
    openlineage: str | None = None
    """Where to tell who made which table of what, as OpenLineage events: a file, or the address of a
    receiver. Unset: nowhere."""
    openlineage_key: SecretStr | None = None
    """What that receiver asks for, sent as `Authorization: Bearer …`, whatever user its address names."""
    portal: str | None = None
    """Folder that runs write the portal into; `off`: none does. Unset: `portal`, beside the lake."""
    portal_token: SecretStr | None = None
    """What `portal --serve` asks for where it can be reached from elsewhere than this machine."""
    failpoint: str | None = None
    debug: bool = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - ours knows the settings of APIs, too
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a folder; we name files
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Files and blocks that variables name, beside the environment and `.env`."""
        return (init_settings, Elsewhere(settings_cls), WithApis(settings_cls), dotenv_settings)

    @model_validator(mode="before")
    @classmethod
    def _names_apis(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What has no field is a setting of an API, or nobody's."""
        return api_settings.kept(given, cls.model_fields, _TITLES)

    @field_validator(*_CHECKS)
    @classmethod
    def _can_be_what_it_says(cls, value: Any, about: ValidationInfo) -> Any:
        told = value.get_secret_value() if isinstance(value, SecretStr) else value
        if told:
            _CHECKS[str(about.field_name)](told)
        return value

    @cached_property
    def sandbox_state(self) -> State | None:
        """The sandbox whose services fill what is not set; None when all are set or none is running."""
        if not self.uses_sandbox:
            return None
        from flows.sandbox.state import read

        return read(self.sandbox)

    @property
    def unset_services(self) -> frozenset[str]:
        """Names of the services that no setting names: these the sandbox must provide."""
        return frozenset(name for name in _SERVICES if getattr(self, name, None) is None)

    @property
    def uses_sandbox(self) -> bool:
        """Whether at least one service is the sandbox's."""
        return bool(self.unset_services)

    @property
    def clock_offset(self) -> timedelta:
        """How far the world's time is from the machine's: the sandbox has a time of its own, and can be moved
        on while we run.
        """
        if self.sandbox_state is None:
            return timedelta(0)
        from flows.sandbox import clock

        return timedelta(seconds=clock.offset(self.sandbox)[0])

    def machine_time(self) -> float:
        """The machine's own time, seconds since 1970: brokers stamp records with it, not with the world's."""
        return datetime.now(UTC).timestamp()

    @property
    def earlier_clock_offsets(self) -> tuple[tuple[datetime, timedelta], ...]:
        """What it was before, each until a moment of the machine's clock, the oldest first: what the
        application has committed keeps its time when the sandbox's clock is moved on.
        """
        if self.sandbox_state is None:
            return ()
        from flows.sandbox import clock

        return tuple(
            (_EPOCH + timedelta(microseconds=until), timedelta(seconds=ahead))
            for until, ahead in clock.offset(self.sandbox)[1]
        )

    def now(self) -> datetime:
        """The world's time, UTC. Nothing else asks a clock."""
        return datetime.now(UTC) + self.clock_offset

    def world_time(self, machine: datetime) -> datetime:
        """What the world's time was at a moment of the machine's clock."""
        for until, ahead in self.earlier_clock_offsets:
            if machine < until:
                return machine + ahead
        return machine + self.clock_offset

    def retry_delay(self, is_deployed: bool) -> float:
        """Seconds between two tries of a task; of a run by hand somebody waits for the end."""
        if self.retry_seconds is not None:
            return self.retry_seconds
        return 1.0 if self.uses_sandbox else 300.0 if is_deployed else 10.0

    @property
    def lake_root(self) -> Path:
        """Folder of the lake, absolute. Raises SettingsError where readers would take a part of its name for
        a column's value: it would stand in every row.
        """
        folder = self.lake or Path(self._service("lake", "the lake"))
        root = folder.expanduser().absolute()
        if named := [part for part in root.parts if "=" in part]:
            raise SettingsError(
                f"The lake can't be in {root}: readers of Parquet take {named[0]} for a column "
                "and its value, as in a partition's folder. Set ANALYTICS_LAKE to one without = in its path."
            )
        return root

    @property
    def writes_portal(self) -> bool:
        """Whether runs write the portal."""
        return self.portal != api_settings.OFF

    @property
    def portal_root(self) -> Path:
        """Folder of the portal, absolute. Where runs write none, one that is asked for is beside the lake."""
        if self.portal in (None, api_settings.OFF):
            return self.lake_root.parent / "portal"
        return Path(self.portal).expanduser().absolute()

    @property
    def backups_root(self) -> Path:
        """Folder of the backups, absolute."""
        if self.backups is not None:
            return self.backups.expanduser().absolute()
        if self.sandbox_state is None:
            raise SettingsError(
                "ANALYTICS_BACKUPS is not set, so there is no place for backups. Set it to a folder on "
                "another disk than the warehouse's and the lake's."
            )
        return self.lake_root.parent / "backups"

    def require(self, name: str) -> str:
        """The address (or key) of a service; raises SettingsError when neither a setting nor the sandbox has
        it.
        """
        if name == "connect_url" and self.connect_url is None and self.kafka_bootstrap is not None:
            # The sandbox's own Connect writes to the sandbox's own broker, which nobody reads then.
            raise SettingsError(
                "ANALYTICS_CONNECT_URL is not set: beside a broker of your own (ANALYTICS_KAFKA_BOOTSTRAP) "
                "changes come by a Kafka Connect of your own. Set it, or ANALYTICS_CDC_ENGINE=embedded."
            )
        url, given = api_settings.url_of(name), getattr(self, name, None)
        address = getattr(self, url, None)
        if isinstance(given, api_settings.Unusable):
            raise SettingsError(api_settings.refused(name, given.reason))
        # The sandbox's own key is none that a service of somebody's own would know.
        is_lacking = given is None and (name not in _TITLES or (address is not None and name != url))
        if name not in type(self).model_fields and (is_lacking or given == api_settings.OFF):
            raise SettingsError(api_settings.missing(name, address))
        return self._service(name, _TITLES.get(name, name))

    def _service(self, name: str, title: str) -> str:
        value = getattr(self, name, None)
        if value is None and self.sandbox_state is not None:
            value = getattr(self.sandbox_state, name)
        if value is None:
            raise SettingsError(
                f"ANALYTICS_{name.upper()} is not set and no sandbox is running, so {title} "
                f"can't be reached. Set it in the environment or in .env, or start the sandbox: "
                f"python -m flows sandbox start"
            )
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

    @property
    def prefect_server(self) -> str | None:
        """PREFECT_API_URL, when somebody has set it: then the sandbox starts no server. Raises SettingsError
        when it is no address.
        """
        url = os.environ.get("PREFECT_API_URL")
        if url is not None:
            try:
                setting_checks.address(url)
            except ValueError as error:
                raise SettingsError(
                    f"PREFECT_API_URL can't be used: {error}, with /api at its end."
                ) from None
        return url

    @property
    def prefect_address(self) -> str | None:
        """Prefect's API: PREFECT_API_URL, else the sandbox's server; None: each run starts a temporary
        one.
        """
        return self.prefect_server or (self.sandbox_state.prefect_url if self.sandbox_state else None)

    def secrets(self) -> list[str]:
        """Everything that must never be printed, for scrubbing messages: keys, addresses with a password, the
        passwords alone, secret options of Kafka's clients.
        """
        found = scrubbing.of_options(self.kafka_options)
        fields = type(self).model_fields
        secret = {name for name in fields if SecretStr in get_args(fields[name].annotation)}
        secret |= {*_SANDBOX_KEYS} | {name for name in self.model_extra or {} if name.endswith("_key")}
        for name in secret:
            value = getattr(self, name, None)
            if value is None and self.sandbox_state is not None:
                value = getattr(self.sandbox_state, name, None)
            if value is None:
                continue
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            if text.startswith("age1"):  # the half of a key that may be shown, and has to be
                continue
            found |= {text} | (scrubbing.parts if name.endswith("_dsn") else scrubbing.of_key)(text)
        return sorted(found, key=len, reverse=True)

    def scrub(self, text: str) -> str:
        """A text without secrets: for whatever is shown or kept and was not written here."""
        return scrubbing.scrubbed(text, self.secrets())


def load(**overrides: Any) -> Settings:
    """Read the environment and `.env`. Raises SettingsError with one sentence that names the variable."""
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        place = api_settings.place(first) or first["loc"]
        name, reason = "_".join(str(part) for part in place), first["msg"].removeprefix("Value error, ")
        raise SettingsError(api_settings.refused(name, reason)) from None
    except ElsewhereError as error:
        raise SettingsError(str(error)) from None
    except UnreadableSetting as error:
        # What is no single value is read as JSON; the library names the field between quotes.
        name = str(error).split(chr(34))[1]
        raise SettingsError(api_settings.refused(name, "it is not valid JSON")) from None
    if settings.failpoint:
        failpoints.arm(settings.failpoint)
    scrubbing.watch(settings)
    return settings
