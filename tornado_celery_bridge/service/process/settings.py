"""The deployment's settings, from the environment."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tornado_celery_bridge.service.process.logs import FORMATS, Format

__all__ = ("Settings", "SettingsError")


class SettingsError(Exception):
    """A setting makes no sense; the message says which, and what would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What differs between deployments. Celery's own settings are in ``celeryconfig.py``."""

    port: int
    bind: str
    celery_app: str
    #: Seconds for which a job is kept after its end.
    job_ttl: float
    #: Bytes that a request's body may have.
    max_body: int
    #: Where the API keys are; None is that there are none.
    api_keys_file: Path | None
    #: Networks and hosts that may be called back whatever their addresses are, as :class:`Receivers` has
    #: them.
    callback_allow: str
    #: Where the secret is by which callbacks are signed.
    callback_secret_file: Path
    #: Whether a proxy is all that reaches the port, so that what it says of the client is true.
    behind_proxy: bool
    #: As :class:`Flower` has them.
    flower_url: str
    flower_password_file: Path
    log_format: Format

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """
        Read the settings.

        Raises:
            SettingsError: One makes no sense.
        """
        bind = environment.get("BIND") or "127.0.0.1"
        keys = environment.get("API_KEYS_FILE")
        _check_bind(bind, has_keys=bool(keys))
        return cls(
            port=int(_number(environment, "PORT", 8888, 1, 65_535)),
            bind=bind,
            celery_app=environment.get("CELERY_APP") or "tasks",
            job_ttl=_number(environment, "JOB_TTL", 86_400, 1, 10 * 366 * 86_400),
            max_body=int(_number(environment, "MAX_BODY", 1024 * 1024, 1024, 1024**3)),
            api_keys_file=Path(keys) if keys else None,
            callback_allow=environment.get("CALLBACK_ALLOW") or "",
            callback_secret_file=_secret_file(environment),
            behind_proxy=bool(_number(environment, "BEHIND_PROXY", 0, 0, 1)),
            flower_url=_flower_url(environment),
            flower_password_file=_data_dir(environment) / "flower-password",
            log_format=_log_format(environment),
        )


def _secret_file(environment: Mapping[str, str]) -> Path:
    given = environment.get("CALLBACK_SECRET_FILE")
    return Path(given) if given else _data_dir(environment) / "callback-secret"


def _data_dir(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("DATA_DIR") or ".data")


def _flower_url(environment: Mapping[str, str]) -> str:
    given = environment.get("FLOWER_URL")
    if not given:
        return f"http://127.0.0.1:{_number(environment, 'FLOWER_PORT', 5555, 1, 65_535)}/flower"
    try:
        parts = urlsplit(given)
        is_known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        is_known = False
    if not is_known:  # not quoted: it may have a password
        raise SettingsError("FLOWER_URL should be the URL of Flower's first page, as in http://127.0.0.1:5555/flower")
    return given


def _log_format(environment: Mapping[str, str]) -> Format:
    given = environment.get("LOG_FORMAT") or "text"
    for form in FORMATS:
        if given == form:
            return form
    raise SettingsError(f"LOG_FORMAT should be one of {', '.join(FORMATS)}, not {given!r}")


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    given = environment.get(name)
    if not given:
        return default
    if not (given.isascii() and given.isdigit() and least <= int(given[:20]) <= most):
        raise SettingsError(f"{name} should be a whole number from {least} to {most:,}, not {given!r}")
    return int(given)


def _check_bind(bind: str, *, has_keys: bool) -> None:
    """Refuse to let the network run tasks without API keys: whoever could connect might do everything."""
    if bind == "localhost":
        return
    try:
        address = ipaddress.ip_address(bind)
    except ValueError:
        raise SettingsError(f"BIND should be an IP address, or localhost, not {bind!r}") from None
    if not (address.is_loopback or has_keys):
        raise SettingsError(
            f"BIND={bind} would let everybody on the network run tasks, as there are no API keys: "
            "set API_KEYS_FILE, or bind to 127.0.0.1 and put a proxy that authenticates in front"
        )
