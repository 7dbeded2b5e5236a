"""The deployment's settings, from the environment."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

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

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """
        Read the settings.

        Raises:
            SettingsError: One makes no sense.
        """
        bind = environment.get("BIND") or "127.0.0.1"
        _check_bind(bind)
        return cls(
            port=int(_number(environment, "PORT", 8888, 1, 65_535)),
            bind=bind,
            celery_app=environment.get("CELERY_APP") or "tasks",
            job_ttl=_number(environment, "JOB_TTL", 86_400, 1, 10 * 366 * 86_400),
        )


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    given = environment.get(name)
    if not given:
        return default
    if not (given.isascii() and given.isdigit() and least <= int(given[:20]) <= most):
        raise SettingsError(f"{name} should be a whole number from {least} to {most:,}, not {given!r}")
    return int(given)


def _check_bind(bind: str) -> None:
    """Refuse to let the network run tasks: there are no API keys yet, so whoever can connect may do everything."""
    if bind == "localhost":
        return
    try:
        address = ipaddress.ip_address(bind)
    except ValueError:
        raise SettingsError(f"BIND should be an IP address, or localhost, not {bind!r}") from None
    if not address.is_loopback:
        raise SettingsError(
            f"BIND={bind} would let everybody on the network run tasks, as there are no API keys: "
            "bind to 127.0.0.1, and put a proxy that authenticates in front"
        )
