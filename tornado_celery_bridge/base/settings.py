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
from typing import Literal, NamedTuple, Self
from urllib.parse import urlsplit

Format = Literal["text", "json"]
FORMATS: tuple[Format, ...] = ("text", "json")

#: The brokers that ``tcb up --broker`` can start; redis is the embedded server itself.
BROKERS = ("redis", "rabbitmq", "kafka", "activemq", "artemis")

#: Bytes. The path of a Unix socket must fit in 108 on Linux and in 104 on macOS, with the zero at its end.
LONGEST_SOCKET_PATH = 100


class Variable(NamedTuple):
    """An environment variable of a deployment."""

    #: What counts if it is not set; empty: nothing does, or what *meaning* says.
    default: str
    #: For people, in a line.
    meaning: str
    unit: str = ""
    #: Of a whole number.
    least: int = 0
    most: int = 0


#: By name. ``docs/settings.md`` says more of each.
VARIABLES = {
    "CELERY_APP": Variable("tasks", "the Celery app, as celery -A takes it"),
    "DATA_DIR": Variable(".data", "the folder of what this deployment keeps on the disk"),
    "REDIS_URL": Variable("", "the Redis of the ledger; none: tcb up starts an embedded server"),
    "BROKER_URL": Variable("", "the broker; none: as the app says"),
    "RESULT_BACKEND": Variable("", "Celery's result backend; none: as the app says"),
    "BROKER": Variable("", f"the private broker that tcb up starts: {', '.join(BROKERS)}"),
    "SENTINEL_MASTER": Variable("mymaster", "the name of the master, if REDIS_URL names Sentinels"),
    "JOB_STORE_URL": Variable("", "where large inputs and results are; none: in DATA_DIR"),
    "JOB_TTL": Variable("86400", "for how long a job is kept after its end", "s", 1, 10 * 366 * 86_400),
    "LOG_FORMAT": Variable("text", f"the form of log lines: {', '.join(FORMATS)}"),
    "ALLOW_UNSAFE": Variable("", "names of what is unsafe and allowed all the same, with commas"),
    "HEARTBEAT_FILE": Variable("", "the file that a process touches every 2 s as long as it works"),
    "TCB_URL": Variable("", "the service that tcb run, list and others ask; none: the ledger"),
    "TCB_KEY": Variable("", "an API key for that service"),
    "PORT": Variable("8888", "where the service listens", "", 1, 65_535),
    "BIND": Variable("127.0.0.1", "the address on which it listens"),
    "API_KEYS_FILE": Variable("", "the file of the API keys; none: there are none"),
    "BEHIND_PROXY": Variable("0", "1: only a proxy can reach the port", "", 0, 1),
    "MAX_BODY": Variable("1048576", "the largest body of a request", "bytes", 1024, 1024**3),
    "CALLBACK_ALLOW": Variable("", "private networks, addresses and hosts that callbacks may go to"),
    "CALLBACK_SECRET_FILE": Variable("", "the master secret of callbacks and sessions; none: in DATA_DIR"),
    "FLOWER_PORT": Variable("5555", "where Flower listens, on 127.0.0.1", "", 1, 65_535),
    "FLOWER_URL": Variable("", "where Flower is; none: on FLOWER_PORT"),
    "STOCK_TRANSPORT": Variable("", "if set, kombu's own Redis transport, which can lose messages (of the sample)"),
    "REMAP_SIGTERM": Variable("", "Celery's own; SIGQUIT: TERM has a worker give its jobs back"),
}

#: What has a secret as a whole; a URL may have one within.
SECRETS = ("TCB_KEY",)

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
        bind = _text(environment, "BIND")
        keys = environment.get("API_KEYS_FILE")
        _check_bind(bind, has_keys=bool(keys))
        data_dir = Path(_text(environment, "DATA_DIR")).absolute()
        secret = environment.get("CALLBACK_SECRET_FILE")
        flower_port = _number(environment, "FLOWER_PORT")
        return cls(
            port=_number(environment, "PORT"),
            flower_port=flower_port,
            bind=bind,
            data_dir=data_dir,
            celery_app=_text(environment, "CELERY_APP"),
            redis_url=environment.get("REDIS_URL") or "",
            broker=_broker(environment),
            job_ttl=job_ttl(environment),
            max_body=_number(environment, "MAX_BODY"),
            api_keys_file=Path(keys) if keys else None,
            callback_allow=environment.get("CALLBACK_ALLOW") or "",
            callback_secret_file=Path(secret) if secret else data_dir / "callback-secret",
            behind_proxy=bool(_number(environment, "BEHIND_PROXY")),
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
    given = _text(environment, "LOG_FORMAT")
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
    return _number(environment, "JOB_TTL")


def _text(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or VARIABLES[name].default


def _number(environment: Mapping[str, str], name: str) -> int:
    given, (*_, least, most) = _text(environment, name), VARIABLES[name]
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
