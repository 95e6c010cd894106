"""`load_config`: where settings come from, and how a bad one is refused."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.config import ConfigError, RuntimeConfig, Setting, load_config, settings
from nexus_core.limits import KIB, MIB, ResourceLimits

SECRET = "s3cret-" + "x" * 25
SETTINGS = {setting.variable: setting for setting in settings()}


def refused(environ: Mapping[str, str], file: Path | None = None) -> str:
    """The message that stops the start."""
    with pytest.raises(ConfigError) as caught:
        load_config(environ, file)
    return caught.value.message


def config_file(folder: Path, text: str) -> Path:
    """A configuration file with this text."""
    path = folder / "nexus-settings.toml"
    path.write_text(text)
    return path


def test_nothing_set_gives_the_defaults() -> None:
    """Without variables and without a file, `load_config` is the constructor without arguments."""
    assert load_config({}) == RuntimeConfig()


def test_variables_of_others_are_ignored() -> None:
    """Only variables that begin with NEXUS_ are settings."""
    assert (
        load_config({"PATH": "/bin", "PORT": "1", "nexus_port": "2", "XNEXUS_PORT": "3"}) == RuntimeConfig()
    )


def test_every_setting_has_a_variable() -> None:
    """Each field of the config and of its limits has one variable, the upper case of its name."""
    fields = {*RuntimeConfig.__struct_fields__, *ResourceLimits.__struct_fields__} - {"limits"}
    assert set(SETTINGS) == {f"NEXUS_{name.upper()}" for name in fields}


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("NEXUS_HANDLERS_DIR", "/srv/handlers", "handlers_dir", Path("/srv/handlers")),
        ("NEXUS_CACHE_SEED_DIR", "seed", "cache_seed_dir", Path("seed")),
        ("NEXUS_CACHE_KEY", "k" * 32, "cache_key", "k" * 32),
        ("NEXUS_STORE_URL", "memory:", "store_url", "memory:"),
        ("NEXUS_STORE_URL", "sqlite:///a.db", "store_url", "sqlite:///a.db"),
        ("NEXUS_EVENT_SINK", "log:", "event_sink", "log:"),
        ("NEXUS_AUTH", "off", "auth", "off"),
        ("NEXUS_PORT", "65535", "port", 65_535),
        ("NEXUS_MAX_TOTAL_MEMORY_BYTES", "0", "max_total_memory_bytes", 0),
        ("NEXUS_MAX_CACHE_SIZE_BYTES", "1048576", "max_cache_size_bytes", MIB),
        ("NEXUS_MAX_CACHE_SIZE_BYTES", "512KiB", "max_cache_size_bytes", 512 * KIB),
        ("NEXUS_MAX_CACHE_SIZE_BYTES", "2 GiB", "max_cache_size_bytes", 2048 * MIB),
        ("NEXUS_EGRESS_ALLOW_PRIVATE", "true", "egress_allow_private", True),
        ("NEXUS_EGRESS_ALLOW_PRIVATE", "False", "egress_allow_private", False),
        ("NEXUS_EGRESS_ALLOW_PRIVATE", "1", "egress_allow_private", True),
        ("NEXUS_EGRESS_ALLOW_PRIVATE", "0", "egress_allow_private", False),
        ("NEXUS_LOG_FORMAT", "text", "log_format", "text"),
    ],
)
def test_a_variable_is_read_in_its_own_type(variable: str, text: str, field: str, value: object) -> None:
    """The text of a variable becomes the path, number, size, flag or word its field holds."""
    assert getattr(load_config({variable: text}), field) == value


def test_a_limit_is_a_flat_variable() -> None:
    """The default limits of handlers are set by variables without a prefix of their own."""
    config = load_config({"NEXUS_TIMEOUT_MS": "250", "NEXUS_MEMORY_LIMIT_BYTES": "64MiB"})
    assert config.limits == ResourceLimits(timeout_ms=250, memory_limit_bytes=64 * MIB)


def test_file_beats_default_and_variable_beats_file(tmp_path: Path) -> None:
    """Of default, file and variable, the later one wins, setting by setting."""
    file = config_file(
        tmp_path, 'port = 1000\nworkers = 3\n[limits]\ntimeout_ms = 7\nmax_log_bytes = "1KiB"\n'
    )
    config = load_config({"NEXUS_PORT": "2000", "NEXUS_TIMEOUT_MS": "8"}, file)
    assert (config.port, config.workers, config.max_instances) == (2000, 3, 10)
    assert config.limits == ResourceLimits(timeout_ms=8, max_log_bytes=KIB)


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    """NEXUS_CONFIG names the file, unless the caller names another."""
    named = config_file(tmp_path, "port = 1000\n")
    other = tmp_path / "other.toml"
    other.write_text("port = 2000\n")
    assert load_config({"NEXUS_CONFIG": str(named)}).port == 1000
    assert load_config({"NEXUS_CONFIG": str(named)}, other).port == 2000


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting.variable)
def test_a_bad_value_is_refused_by_name_value_and_range(setting: Setting) -> None:
    """Whatever the setting, a value outside its range stops the start and all three parts are said."""
    bad = "" if setting.allowed in ("a path", "a host name or IP address") else "no\nsuch"
    message = refused({setting.variable: bad})
    shown = "'(hidden)'" if setting.variable in ("NEXUS_JWT_SECRET", "NEXUS_CACHE_KEY") else repr(bad)
    assert message == f"{setting.variable}: {shown} is not allowed; allowed: {setting.allowed}"


@pytest.mark.parametrize(
    ("variable", "low", "high"),
    [("NEXUS_PORT", 1, 65_535), ("NEXUS_WORKERS", 1, 256), ("NEXUS_STACK_SIZE_BYTES", 65_536, 1_048_576)],
)
def test_the_range_includes_its_ends_only(variable: str, low: int, high: int) -> None:
    """The lowest and highest values are accepted; one step outside is refused."""
    for value in (low, high):
        load_config({variable: str(value)})
    for value in (low - 1, high + 1):
        assert refused({variable: str(value)}).startswith(f"{variable}: {value} is not allowed")


@pytest.mark.parametrize("text", ["1.5", "1e3", " 8080", "8_080", "0x50", "٣", "9" * 5000, "1MiB"])
def test_a_number_is_plain_digits(text: str) -> None:
    """What only Python takes for a number is refused, and a huge one costs nothing."""
    assert "allowed: 1 to 65535" in refused({"NEXUS_PORT": text})


@pytest.mark.parametrize("text", ["1MB", "1.5MiB", "MiB", "1mib", "-1KiB", "99999999GiB"])
def test_a_size_has_one_spelling(text: str) -> None:
    """A size is digits with KiB, MiB, GiB or nothing; other units and fractions are refused."""
    assert text in refused({"NEXUS_MAX_CACHE_SIZE_BYTES": text})


@pytest.mark.parametrize("text", ["a\0b", "caf\udce9"])
def test_text_that_is_no_text_is_refused(text: str) -> None:
    """NUL and bytes that are not UTF-8 are refused in paths, addresses and secrets alike."""
    for variable in ("NEXUS_CACHE_DIR", "NEXUS_HOST", "NEXUS_JWT_SECRET"):
        assert refused({variable: text * 20}).startswith(f"{variable}: ")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("port = '80'", "port: '80' is not allowed; allowed: 1 to 65535"),
        ("port = true", "port: True is not allowed"),
        ("handlers_dir = 3", "handlers_dir: 3 is not allowed; allowed: a path"),
        ("egress_allow_private = 1", "egress_allow_private: 1 is not allowed"),
        ("[limits]\ntimeout_ms = -1", "limits.timeout_ms: -1 is not allowed; allowed: 0 to 86400000"),
        ("limits = 3", "limits: a table is needed"),
        ("prot = 80", "prot: there is no such setting; did you mean port?"),
        ("timeout_ms = 5", "timeout_ms: there is no such setting; did you mean limits.timeout_ms?"),
        ("[limits]\nport = 5", "limits.port: there is no such setting; did you mean port?"),
        ("port = ", "the configuration file is not TOML: "),
    ],
)
def test_a_bad_file_is_refused_by_file_and_key(tmp_path: Path, text: str, place: str) -> None:
    """A mistake in the file is reported with the file and the key."""
    file = config_file(tmp_path, text)
    assert refused({}, file).startswith(f"{file}: {place}")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A named file that cannot be read stops the start instead of being skipped."""
    assert "cannot be read: No such file" in refused({"NEXUS_CONFIG": str(tmp_path / "none.toml")})


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Bytes that are no text are a bad file, not a crash."""
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe")
    assert "is not TOML" in refused({}, file)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("NEXUS_MAX_INSTANCE", "; did you mean NEXUS_MAX_INSTANCES?"),
        ("NEXUS_CONFIG_FILE", "; did you mean NEXUS_CONFIG?"),
        ("NEXUS_LIMITS", "; did you mean NEXUS_"),
        ("NEXUS_QQQQQQQQQQQQQ", ""),
    ],
)
def test_an_unknown_variable_is_refused_with_the_close_name(variable: str, hint: str) -> None:
    """A misspelt variable is never ignored, and the name it resembles is given."""
    message = refused({variable: SECRET})
    assert message.startswith(f"{variable}: there is no such variable{hint}")
    assert SECRET not in message


def test_secrets_never_show(tmp_path: Path) -> None:
    """Neither the printed config nor the message that refuses a secret holds a byte of it."""
    config = load_config({"NEXUS_JWT_SECRET": SECRET, "NEXUS_CACHE_KEY": SECRET[::-1]})
    assert (config.jwt_secret, config.cache_key) == (SECRET, SECRET[::-1])
    for text in (repr(config), str(config), f"{config}", str(config.__rich_repr__())):
        assert SECRET not in text
        assert SECRET[::-1] not in text
        assert text.count("(hidden)") == 2
    for name in ("jwt_secret", "cache_key"):
        assert "hunter2" not in refused({f"NEXUS_{name.upper()}": "hunter2"})
        assert "31337" not in refused({}, config_file(tmp_path, f"{name} = 31337"))


def test_a_short_secret_is_refused_by_its_bytes() -> None:
    """A secret has at least 32 bytes, counted in UTF-8."""
    assert load_config({"NEXUS_JWT_SECRET": "é" * 16}).jwt_secret == "é" * 16
    assert refused({"NEXUS_JWT_SECRET": "x" * 31}).endswith("allowed: at least 32 bytes")


@pytest.mark.parametrize(
    "url", ["redis://me:hunter2@h/0", "redis://h/0?password=hunter2", "rediss://u:a/hunter2@h"]
)
def test_the_password_of_a_store_never_shows(url: str) -> None:
    """A URL is printed without its user, password and query, in a config and in a refusal."""
    assert "hunter2" not in repr(RuntimeConfig(store_url=url))
    assert "hunter2" not in refused({"NEXUS_STORE_URL": url})


def test_demanding_tokens_needs_a_secret() -> None:
    """`NEXUS_AUTH=jwt` without a secret is refused, since nothing could check a token."""
    assert refused({"NEXUS_AUTH": "jwt"}).startswith(
        "NEXUS_AUTH: 'jwt' is not allowed without NEXUS_JWT_SECRET"
    )
    assert load_config({"NEXUS_AUTH": "jwt", "NEXUS_JWT_SECRET": SECRET}).auth == "jwt"


def test_more_kept_instances_than_allowed_are_refused(tmp_path: Path) -> None:
    """A stated minimum above the maximum is refused, with both places named."""
    file = config_file(tmp_path, "max_instances = 4")
    message = refused({"NEXUS_MIN_INSTANCES": "5"}, file)
    assert message == f"NEXUS_MIN_INSTANCES: 5 is not allowed; allowed: 0 to 4 ({file}: max_instances)"
    assert "(the default of max_instances)" in refused({"NEXUS_MIN_INSTANCES": "11"})
    assert load_config({"NEXUS_MIN_INSTANCES": "4"}, file).min_instances == 4


def test_the_default_minimum_gives_way() -> None:
    """Asking for one instance at most is enough; nobody has to lower the minimum as well."""
    config = load_config({"NEXUS_MAX_INSTANCES": "1"})
    assert (config.min_instances, config.max_instances) == (1, 1)


@given(st.dictionaries(st.sampled_from(sorted(SETTINGS)), st.text(max_size=12)))
def test_any_text_is_taken_or_refused_by_name(environ: dict[str, str]) -> None:
    """Whatever the variables hold, the outcome is a config or a `ConfigError` that names one of them."""
    message = ""
    try:
        config = load_config(environ)
    except ConfigError as error:
        message = error.message
    else:
        assert config.min_instances <= config.max_instances
    assert re.match(r"NEXUS_[A-Z_]+: |$", message)
