"""
The settings of a deployment: every environment variable is read here, once, and in the same way by each process.

An empty variable counts as unset. Celery's own settings belong to the app. The supervisor reads this module, too, so it
imports the standard library alone.
"""

import ipaddress
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

Format = Literal["text", "json"]
FORMATS: tuple[Format, ...] = ("text", "json")

#: The brokers that ``tcb up --broker`` can start; redis is the embedded server itself.
BROKERS = ("redis", "rabbitmq", "kafka", "activemq", "artemis")

#: Bytes. The path of a Unix socket must fit in 108 on Linux and in 104 on macOS, with the zero at its end.
LONGEST_SOCKET_PATH = 100


#: What `celery` takes from the environment for its options (--broker...), and where it puts that for the app to read.
#: See https://docs.celeryq.dev/en/stable/reference/cli.html
_OF_COMMAND_LINE = {
    "BROKER_URL": "CELERY_BROKER_URL",
    "RESULT_BACKEND": "CELERY_RESULT_BACKEND",
    "LOADER": "CELERY_LOADER",
    "CONFIG_MODULE": "CELERY_CONFIG_MODULE",
}


class SettingsError(Exception):
    """A setting is wrong. The message says which one, and what to set instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What differs between deployments."""

    port: int
    flower_port: int
    bind: str
    #: An absolute path.
    data_dir: Path
    celery_app: str
    #: The Redis of the ledger and its schedules; empty: ``tcb up`` starts an embedded server.
    redis_url: str
    #: Which private broker ``tcb up`` starts: redis, rabbitmq, kafka, activemq or artemis; empty: none.
    broker: str
    #: Seconds for which a job is kept after its end.
    job_ttl: float
    #: Bytes that the body of a request may have.
    max_body: int
    #: The file of the API keys; None: there are no keys.
    api_keys_file: Path | None
    #: Networks and hosts that may be called back whatever their addresses are.
    callback_allow: str
    #: The file of the secret that signs callbacks.
    callback_secret_file: Path
    #: Whether a proxy alone reaches the port, so that its headers about the client are true.
    behind_proxy: bool
    flower_url: str
    log_format: Format

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """
        Read the settings.

        Raises:
            SettingsError: One is wrong.
        """
        bind = environment.get("BIND") or "127.0.0.1"
        keys = environment.get("API_KEYS_FILE")
        _check_bind(bind, has_keys=bool(keys))
        data_dir = Path(environment.get("DATA_DIR") or ".data").absolute()
        secret = environment.get("CALLBACK_SECRET_FILE")
        flower_port = int(_number(environment, "FLOWER_PORT", 5555, 1, 65_535))
        return cls(
            port=int(_number(environment, "PORT", 8888, 1, 65_535)),
            flower_port=flower_port,
            bind=bind,
            data_dir=data_dir,
            celery_app=environment.get("CELERY_APP") or "tasks",
            redis_url=environment.get("REDIS_URL") or "",
            broker=_broker(environment),
            job_ttl=job_ttl(environment),
            max_body=int(_number(environment, "MAX_BODY", 1024 * 1024, 1024, 1024**3)),
            api_keys_file=Path(keys) if keys else None,
            callback_allow=environment.get("CALLBACK_ALLOW") or "",
            callback_secret_file=Path(secret) if secret else data_dir / "callback-secret",
            behind_proxy=bool(_number(environment, "BEHIND_PROXY", 0, 0, 1)),
            flower_url=_flower_url(environment) or f"http://127.0.0.1:{flower_port}/flower",
            log_format=log_format(environment),
        )

    @property
    def redis_socket(self) -> Path:
        """
        Where the embedded server listens.

        Raises:
            SettingsError: The path is too long for a Unix socket.
        """
        path = self.data_dir / "redis.sock"
        if (length := len(os.fsencode(path))) > LONGEST_SOCKET_PATH:
            raise SettingsError(
                f"{path} is {length} bytes long and the path of a Unix socket may have {LONGEST_SOCKET_PATH}: "
                "set DATA_DIR to a shorter one"
            )
        return path

    @property
    def flower_password_file(self) -> Path:
        """Where Flower's password is."""
        return self.data_dir / "flower-password"

    def make_data_dir(self) -> None:
        """
        Make the folder DATA_DIR, readable by its owner alone.

        Raises:
            SettingsError: It can't be made.
        """
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise SettingsError(f"DATA_DIR={self.data_dir} cannot be made: {exc.strerror}") from exc


def follow_command_line(environment: MutableMapping[str, str]) -> None:
    """
    Have every process read the variables that ``celery`` alone reads.

    A worker with ``BROKER_URL`` would else have one broker, and the web process another.
    """
    for variable, other in _OF_COMMAND_LINE.items():
        if given := environment.get(variable):
            environment[other] = given


def log_format(environment: Mapping[str, str] = os.environ) -> Format:
    """
    Return how log lines are written.

    Raises:
        SettingsError: LOG_FORMAT is not one of :data:`FORMATS`.
    """
    given = environment.get("LOG_FORMAT") or "text"
    for form in FORMATS:
        if given == form:
            return form
    raise SettingsError(f"LOG_FORMAT should be one of {', '.join(FORMATS)}, not {given!r}")


def _broker(environment: Mapping[str, str]) -> str:
    given = environment.get("BROKER") or ""
    if given and given not in BROKERS:
        raise SettingsError(f"BROKER should be one of {', '.join(BROKERS)}, not {given!r}")
    if given and environment.get("BROKER_URL"):
        raise SettingsError("BROKER starts a broker and BROKER_URL says where one is: set one of them")
    return given


def _flower_url(environment: Mapping[str, str]) -> str | None:
    if not (given := environment.get("FLOWER_URL")):
        return None
    try:
        parts = urlsplit(given)
        is_known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        is_known = False
    if not is_known:  # not quoted: it may have a password
        raise SettingsError("FLOWER_URL should be the URL of Flower's first page, as in http://127.0.0.1:5555/flower")
    return given


def job_ttl(environment: Mapping[str, str] = os.environ) -> float:
    """
    Return for how many seconds a job is kept after its end.

    Raises:
        SettingsError: JOB_TTL is not a whole number.
    """
    return _number(environment, "JOB_TTL", 86_400, 1, 10 * 366 * 86_400)


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    if not (given := environment.get(name)):
        return default
    if not (given.isascii() and given.isdigit() and least <= int(given[:20]) <= most):
        raise SettingsError(f"{name} should be a whole number from {least} to {most:,}, not {given!r}")
    return int(given)


def _check_bind(bind: str, *, has_keys: bool) -> None:
    """Refuse to let the network run tasks without API keys: whoever can connect could do everything."""
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
