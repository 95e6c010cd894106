"""`RuntimeConfig`: every setting of a Nexus process, read once by `load_config`.

Defaults, then a TOML file, then `NEXUS_*` variables; the later one wins. The table in
docs/configuration.md is compared with `settings()` by a test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta

from nexus_core.errors import NexusError
from nexus_core.limits import KIB, MIB, ResourceLimits

PREFIX = "NEXUS_"
FILE_VARIABLE = "NEXUS_CONFIG"
MIN_SECRET_BYTES = 32

_LIMITS = "limits."
_SECRETS = frozenset({"cache_key", "jwt_secret"})
_URLS = frozenset({"event_sink", "store_url"})
_UNITS = {"": 1, "KiB": KIB, "MiB": MIB, "GiB": 1024 * MIB}
# Eighteen digits fit a signed 64-bit integer and keep a hostile text from being a slow one.
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_SIZE = re.compile(r"([0-9]{1,18}) ?(KiB|MiB|GiB|)")
_USER_INFO = re.compile(r"//.*@")
_QUERY = re.compile(r"\?.*")
_HOUR_MS = 3600 * 1000


class ConfigError(NexusError):
    """A setting stops the start; the message names its variable (or file and key), value and range."""


class RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one process. `load_config` checks them; the constructor, meant for tests, does not."""

    handlers_dir: Annotated[Path, Meta(description="Folder of the handlers that are served.")] = Path(
        "handlers"
    )
    cache_dir: Annotated[
        Path, Meta(description="Folder of the disk cache; made at the start, and never trusted unchecked.")
    ] = Path("/tmp/nexus-cache")  # noqa: S108 - the only folder Lambda can write; owner and digests are checked
    cache_seed_dir: Annotated[
        Path | None,
        Meta(description="Read-only folder filled by `nexus build`, looked at after the disk cache."),
    ] = None
    cache_key: Annotated[
        str | None,
        Meta(
            description="Secret that keys the digests of cache files; unset = made at the first start.",
            extra={"allowed": f"at least {MIN_SECRET_BYTES} bytes"},
        ),
    ] = None
    store_url: Annotated[
        str,
        Meta(
            pattern=r"^(memory:|sqlite:///.+)\Z",
            description="Where session state is kept; an absolute path has four slashes.",
            extra={"allowed": "`memory:` or `sqlite:///PATH`"},
        ),
    ] = "sqlite:////tmp/nexus.db"
    event_sink: Annotated[
        str,
        Meta(
            pattern=r"^(none:|log:|https?://[^/\s]+\S*)\Z",
            description="Where emitted events go once their flush is committed; a URL gets CloudEvents.",
            extra={"allowed": "`none:`, `log:`, `http://…` or `https://…`"},
        ),
    ] = "none:"
    event_attributes: Annotated[
        str,
        Meta(
            pattern=r"^\{.*\}\Z",
            description="JSON object of the extension attributes on each CloudEvent sent.",
            extra={"allowed": "a JSON object of texts"},
        ),
    ] = "{}"
    jwt_secret: Annotated[
        str | None,
        Meta(
            description="Secret that signs and checks the tokens of callers (HS256).",
            extra={"allowed": f"at least {MIN_SECRET_BYTES} bytes"},
        ),
    ] = None
    auth: Annotated[
        Literal["jwt", "off"] | None,
        Meta(
            description="`jwt` demands a token on every call, `off` none. "
            "Unset = `jwt` when there is a secret; without one only a loopback address is served."
        ),
    ] = None
    host: Annotated[
        str,
        Meta(
            min_length=1, description="Address to listen on.", extra={"allowed": "a host name or IP address"}
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65_535, description="TCP port to listen on.")] = 8080
    workers: Annotated[
        int, Meta(ge=1, le=256, description="Worker processes; each has a pool of its own.")
    ] = 1
    limits: ResourceLimits = ResourceLimits()
    max_instances: Annotated[int, Meta(ge=1, le=10_000, description="Most instances in the pool.")] = 10
    min_instances: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Instances made at the start and kept when idle; "
            "the default gives way to a lower `max_instances`.",
        ),
    ] = 2
    max_waiting: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="Most calls that wait for an instance; one more is refused."),
    ] = 100
    acquire_timeout_ms: Annotated[
        int, Meta(ge=0, le=_HOUR_MS, description="How long a call waits for an instance; 0 = it does not.")
    ] = 5_000
    idle_timeout_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=24 * _HOUR_MS,
            description="Idle time after which instances above `min_instances` are retired; 0 = never.",
        ),
    ] = 60_000
    max_total_memory_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1024 * 1024 * MIB,
            description="Memory of all instances of the pool together; 0 = no limit.",
        ),
    ] = 0
    max_cache_size_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1024 * 1024 * MIB,
            description="Size of the memory cache and, apart from it, of the disk cache.",
        ),
    ] = 64 * MIB
    shutdown_timeout_ms: Annotated[
        int, Meta(ge=0, le=_HOUR_MS, description="How long a stop waits for running calls.")
    ] = 10_000
    deadline_margin_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=60_000,
            description="Kept back from the time a host leaves for an event (Lambda), "
            "so that the answer gets out.",
        ),
    ] = 500
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severe level that is logged.")
    ] = "info"
    log_format: Annotated[Literal["json", "text"], Meta(description="Form of a log line.")] = "json"
    egress_allow_private: Annotated[
        bool,
        Meta(description="Lets `$ext.http` reach loopback and private addresses: for development only."),
    ] = False
    http_max_response_bytes: Annotated[
        int, Meta(ge=0, le=256 * MIB, description="Largest response body `$ext.http` reads.")
    ] = 6 * MIB
    metrics_max_handlers: Annotated[
        int,
        Meta(ge=0, le=100_000, description="Handlers with a metric label of their own; the rest share one."),
    ] = 200

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Names and values for a repr, secrets hidden."""
        return [(name, _shown(name, getattr(self, name))) for name in self.__struct_fields__]

    def __repr__(self) -> str:
        pairs = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"RuntimeConfig({pairs})"


class Setting(NamedTuple):
    """One setting as users meet it: `key` in a file (`limits.NAME` for a limit), `variable` elsewhere."""

    key: str
    variable: str
    type: Any
    default: Any
    allowed: str
    meaning: str

    @property
    def name(self) -> str:
        """The field's own name, without its table."""
        return self.key.rpartition(".")[2]


class _Given(NamedTuple):
    """A value somebody set, and how a message names the place: a variable, or a file and key."""

    place: str
    value: Any


@cache
def settings() -> tuple[Setting, ...]:
    """Every setting in the order of `RuntimeConfig`, limits in place of the field `limits`."""
    found: list[Setting] = []
    for field in msgspec.structs.fields(RuntimeConfig):
        if field.name == "limits":
            found += (_setting(limit, _LIMITS) for limit in msgspec.structs.fields(ResourceLimits))
        else:
            found.append(_setting(field, ""))
    return tuple(found)


def load_config(environ: Mapping[str, str], file: Path | None = None) -> RuntimeConfig:
    """The settings of this process: defaults, then the file, then the `NEXUS_*` variables of `environ`.

    `file` is TOML and wins over the file that `NEXUS_CONFIG` names. A command-line option is
    passed as a variable laid over `environ`. Raises `ConfigError` for the first bad setting.
    """
    named = environ.get(FILE_VARIABLE)
    path = file or (Path(named) if named else None)
    given = (_from_file(path) if path else {}) | _from_environ(environ)
    by_key = {setting.key: setting for setting in settings()}
    values: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for key, item in given.items():
        setting = by_key[key]
        (limits if key.startswith(_LIMITS) else values)[setting.name] = _checked(setting, item)
    config = RuntimeConfig(**values, limits=ResourceLimits(**limits))
    _check_auth(config, given)
    return _with_instances(config, given)


def _setting(field: msgspec.structs.FieldInfo, table: str) -> Setting:
    meta = next(item for item in field.type.__metadata__ if isinstance(item, Meta))
    return Setting(
        key=table + field.name,
        variable=PREFIX + field.name.upper(),
        type=field.type,
        default=field.default,
        allowed=(meta.extra or {}).get("allowed") or _allowed(field, meta),
        meaning=meta.description or "",
    )


def _allowed(field: msgspec.structs.FieldInfo, meta: Meta) -> str:
    """The allowed values in words, from the type alone."""
    kind = field.type.__origin__
    if meta.ge is not None and meta.le is not None:
        return f"{_amount(field.name, int(meta.ge))} to {_amount(field.name, int(meta.le))}"
    if kind is bool:
        return "`true` or `false`"
    choices = [value for one in (kind, *get_args(kind)) for value in get_args(one) if isinstance(value, str)]
    return " or ".join(f"`{value}`" for value in choices) or "a path"


def _amount(name: str, value: int) -> str:
    """A number, in the largest unit that shows it exactly when it is a size."""
    if not name.endswith("_bytes") or value == 0:
        return str(value)
    unit, factor = max((pair for pair in _UNITS.items() if value % pair[1] == 0), key=lambda pair: pair[1])
    return f"{value // factor} {unit}".rstrip()


def _from_file(path: Path) -> dict[str, _Given]:
    import tomllib  # here, because most processes are set up by variables alone

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the configuration file cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: the configuration file is not TOML: {error}") from error
    limits = document.pop("limits", {})
    if not isinstance(limits, dict):
        raise ConfigError(f"{path}: limits: a table is needed, as in `[limits]`")
    flat = document | {f"limits.{key}": value for key, value in limits.items()}
    known = [setting.key for setting in settings()]
    for key in flat:
        if key not in known:
            raise ConfigError(f"{path}: {key}: there is no such setting{_close(key, known)}")
    return {key: _Given(f"{path}: {key}", value) for key, value in flat.items()}


def _from_environ(environ: Mapping[str, str]) -> dict[str, _Given]:
    known = {setting.variable: setting for setting in settings()}
    given: dict[str, _Given] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        if variable not in known:
            hint = _close(variable, [*known, FILE_VARIABLE])
            raise ConfigError(f"{variable}: there is no such variable{hint}")
        given[known[variable].key] = _Given(variable, _from_text(known[variable], text))
    return given


def _from_text(setting: Setting, text: str) -> Any:
    """The value a variable's text stands for; what cannot be read stays text, which the check refuses."""
    kind = setting.type.__origin__
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if kind is int and _INTEGER.fullmatch(text):
        return int(text)
    return text


def _checked(setting: Setting, given: _Given) -> Any:
    """The value in the field's type, or a `ConfigError` that names place, value and allowed range."""
    value = given.value
    if isinstance(value, str) and not _is_text(value, MIN_SECRET_BYTES if setting.name in _SECRETS else 1):
        raise _refusal(setting, given)
    if setting.name.endswith("_bytes") and isinstance(value, str) and (size := _SIZE.fullmatch(value)):
        value = int(size[1]) * _UNITS[size[2]]
    try:
        return msgspec.convert(value, setting.type, dec_hook=_path)
    except msgspec.ValidationError:
        # Without the cause: its message and traceback may hold a secret.
        raise _refusal(setting, given) from None


def _is_text(value: str, least_bytes: int) -> bool:
    """Whether a text is long enough, and free of NUL and of bytes that were not UTF-8."""
    try:
        return len(value.encode()) >= least_bytes and "\0" not in value
    except UnicodeEncodeError:
        return False


def _path(_kind: type, value: Any) -> Path:
    """The one type of `RuntimeConfig` that msgspec does not know."""
    if not isinstance(value, str):
        raise TypeError("a path is written as text")
    return Path(value)


def _refusal(setting: Setting, given: _Given) -> ConfigError:
    value = _shown(setting.name, given.value)
    return ConfigError(f"{given.place}: {value!r} is not allowed; allowed: {setting.allowed}")


def _shown(name: str, value: Any) -> Any:
    """A value as it may be printed: secrets, and where a URL may hold one, are hidden."""
    if name in _SECRETS and value is not None:
        return "(hidden)"
    if name in _URLS and isinstance(value, str):
        return _QUERY.sub("?(hidden)", _USER_INFO.sub("//(hidden)@", value))
    return value


def _check_auth(config: RuntimeConfig, given: Mapping[str, _Given]) -> None:
    """Refuse to demand tokens that nothing can check."""
    if config.auth == "jwt" and config.jwt_secret is None:
        raise ConfigError(
            f"{given['auth'].place}: 'jwt' is not allowed without {PREFIX}JWT_SECRET; "
            f"allowed: with a secret of at least {MIN_SECRET_BYTES} bytes, or 'off'"
        )


def _with_instances(config: RuntimeConfig, given: Mapping[str, _Given]) -> RuntimeConfig:
    """The settings with `min_instances` in range: a default gives way, a stated value is refused."""
    if config.min_instances <= config.max_instances:
        return config
    if "min_instances" not in given:
        return msgspec.structs.replace(config, min_instances=config.max_instances)
    most = given["max_instances"].place if "max_instances" in given else "the default of max_instances"
    raise ConfigError(
        f"{given['min_instances'].place}: {config.min_instances} is not allowed; "
        f"allowed: 0 to {config.max_instances} ({most})"
    )


def _close(name: str, known: list[str]) -> str:
    """A hint at the known name the unknown one most likely meant."""
    import difflib  # here, because only a mistake needs it

    # A limit put outside its table is the commonest slip in a file, so tables do not count.
    by_last_part = {one.rpartition(".")[2]: one for one in known}
    matches = difflib.get_close_matches(name.rpartition(".")[2], by_last_part, n=1)
    return f"; did you mean {by_last_part[matches[0]]}?" if matches else ""
