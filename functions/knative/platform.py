"""What Knative and Kubernetes tell a container through its environment, as settings of Nexus.

Sources: Knative's runtime contract (PORT) and the SinkBinding of Knative Eventing (K_SINK, K_CE_OVERRIDES).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nexus_core.config import ConfigError


class _Overrides(msgspec.Struct, frozen=True):
    """What K_CE_OVERRIDES holds."""

    extensions: dict[str, str] = {}


def platform_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with the platform's variables as `NEXUS_*` ones.

    The port is the platform's to choose; a sink that was set by hand stays. A container is reached from
    outside, so it listens on every address. Raises `ConfigError` for what the platform cannot have meant.
    """
    settings = {"NEXUS_HOST": "0.0.0.0", **environ}  # noqa: S104 - see above
    if "PORT" in environ:
        settings["NEXUS_PORT"] = environ["PORT"]
    if "K_SINK" in environ:
        settings.setdefault("NEXUS_EVENT_SINK", environ["K_SINK"])
    if "K_CE_OVERRIDES" in environ:
        attributes = _overrides(environ["K_CE_OVERRIDES"]).extensions
        settings.setdefault("NEXUS_EVENT_ATTRIBUTES", msgspec.json.encode(attributes).decode())
    return settings


def _overrides(text: str) -> _Overrides:
    try:
        # An empty one is what a SinkBinding without overrides sets.
        return msgspec.json.decode(text or "{}", type=_Overrides)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f'K_CE_OVERRIDES: a JSON object like {{"extensions": {{"name": "text"}}}} is needed: {error}'
        ) from None
