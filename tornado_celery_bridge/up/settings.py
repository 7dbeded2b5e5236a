"""What a deployment sets in the environment, checked before anything is started."""

import os
from dataclasses import dataclass
from pathlib import Path

from tornado_celery_bridge.up.brokers import KINDS

__all__ = ("Settings", "SettingsError")

#: Bytes. A Unix socket's path must fit in 108 on Linux and in 104 on macOS, the closing zero included.
LONGEST_SOCKET_PATH = 100


class SettingsError(Exception):
    """One line for whoever typed the value: what is wrong, and what to set instead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The variables of README.md's table that the supervisor itself needs; an empty one counts as unset."""

    port: int
    flower_port: int
    bind: str
    data_dir: Path
    celery_app: str
    #: Whether REDIS_URL is unset, so that a server of our own is started.
    embedded: bool
    #: What kind of private broker is to be started, if any.
    broker: str = ""

    @classmethod
    def from_environment(cls) -> "Settings":
        settings = cls(
            port=_port("PORT", 8888),
            flower_port=_port("FLOWER_PORT", 5555),
            bind=os.environ.get("BIND") or "127.0.0.1",
            data_dir=Path(os.environ.get("DATA_DIR") or ".data").absolute(),
            celery_app=os.environ.get("CELERY_APP") or "tasks",
            embedded=not os.environ.get("REDIS_URL"),
            broker=os.environ.get("BROKER") or "",
        )
        if settings.broker and settings.broker not in KINDS:
            raise SettingsError(f"BROKER={settings.broker} is none that can be started here: {', '.join(KINDS)}")
        if settings.broker and os.environ.get("BROKER_URL"):
            raise SettingsError("BROKER starts a broker and BROKER_URL says where one is; set one of them")
        if settings.port == settings.flower_port:
            raise SettingsError(f"PORT and FLOWER_PORT are both {settings.port}; give each its own")
        try:
            settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise SettingsError(f"DATA_DIR={settings.data_dir} cannot be made: {exc.strerror}") from exc
        return settings

    @property
    def redis_socket(self) -> Path:
        """Where the embedded server listens; ``celeryconfig`` derives the same path."""
        path = self.data_dir / "redis.sock"
        if (length := len(os.fsencode(path))) > LONGEST_SOCKET_PATH:
            raise SettingsError(
                f"{path} is {length} bytes long and a Unix socket's path may have {LONGEST_SOCKET_PATH}; "
                "set DATA_DIR to a shorter one"
            )
        return path


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise SettingsError(f"{variable}={text} is not a port: it must be a whole number from 1 to 65535")
    return int(text)
