"""
API keys: what each may do, and the file that they are kept in.

A key is ``tcb_<id>_<secret>``. The id finds the key's entry, and the secret is 256 random bits. The file has the
SHA-256 of the whole key and never the key itself. A plain hash is enough, because slow hashes are for passwords, which
can be guessed.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, field_validator

from tornado_celery_bridge.base.settings import SettingsError
from tornado_celery_bridge.ledger import Gone, Job, Workflow
from tornado_celery_bridge.schedules import Entry
from tornado_celery_bridge.schedules.calls import Owner
from tornado_celery_bridge.service.access.limits import Rate
from tornado_celery_bridge.service.http.documents import milliseconds

_log = logging.getLogger(__name__)

Scope = Literal["submit", "read", "cancel", "schedule", "monitor", "admin"]
SCOPES: tuple[Scope, ...] = ("submit", "read", "cancel", "schedule", "monitor", "admin")
#: Names for sets of scopes, the smallest first.
ROLES: dict[str, tuple[Scope, ...]] = {
    "viewer": ("read", "monitor"),
    "operator": ("submit", "read", "cancel", "schedule", "monitor"),
    "admin": ("admin",),
}

#: Seconds between two checks of the file. A revoked key still works for this long.
CHECK_EVERY = 1.0

_KEY = re.compile(r"tcb_([a-z0-9]{1,32})_[A-Za-z0-9_-]{43}", re.ASCII)
_NO_HASH = "0" * 64
#: Digits of a hash in a note.
_NOTED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks, and what they may do."""

    #: The owner of the jobs that they submit; "" if there are no keys.
    owner: str
    scopes: frozenset[str]
    #: Names of tasks. A name that ends in ``*`` stands for all names with that beginning.
    tasks: tuple[str, ...] = ("*",)
    #: The rate of requests; None is unlimited.
    rate: Rate | None = None
    #: The most unfinished jobs at a time; None is unlimited.
    max_unfinished: int | None = None
    #: The most schedules of their owner; None is unlimited.
    max_schedules: int | None = None
    #: The most jobs that they may follow at a time in one web process: by streams, and by requests that wait; None is
    #: unlimited.
    max_followed: int | None = None
    key_id: str = ""

    @property
    def is_admin(self) -> bool:
        """Whether they may see and cancel everybody's jobs, and have every other scope."""
        return "admin" in self.scopes

    def may(self, scope: str) -> bool:
        """Return whether they have a scope."""
        return self.is_admin or scope in self.scopes

    @property
    def role(self) -> str | None:
        """The highest of ``ROLES`` whose scopes they have."""
        held = [name for name, scopes in ROLES.items() if all(map(self.may, scopes))]
        return held[-1] if held else None

    @property
    def sees_tracebacks(self) -> bool:
        """Whether they may see the traceback of a failed job: people who run the service may, and others may not."""
        return self.role in ("operator", "admin")

    def may_see(self, found: Job | Workflow | Gone | Entry) -> bool:
        """Return whether they may see a job, a workflow or a schedule, or learn that there was one."""
        return self.is_admin or found.owner == self.owner

    def may_run(self, task_name: str) -> bool:
        """Return whether they may run a task with this name. The task need not exist."""
        return any(_fits(task_name, pattern) for pattern in self.tasks)


def _fits(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


#: Everybody who can connect, if there are no keys.
EVERYBODY = Principal(owner="", scopes=frozenset(SCOPES))


class ApiKey(BaseModel):
    """An entry of the file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,32}$")]
    #: Hexadecimal SHA-256 of the whole key.
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    #: Several keys may have the same owner.
    owner: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}$")]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    tasks: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[^*\s]+\*?$|^\*$")], ...], Field(min_length=1)
    ] = ("*",)
    #: In the form that :meth:`.limits.Rate.parse` reads.
    rate: str | None = None
    max_unfinished: Annotated[int, Field(ge=1)] | None = None
    max_schedules: Annotated[int, Field(ge=0)] = 100
    max_followed: Annotated[int, Field(ge=0)] = 1_000
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    note: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,200}$")] = ""

    @field_validator("rate")
    @classmethod
    def _check_rate(cls, rate: str | None) -> str | None:
        return rate and str(Rate.parse(rate))

    @property
    def has_expired(self) -> bool:
        """Whether the key has expired."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    @cached_property
    def principal(self) -> Principal:
        """The principal who has this key."""
        return Principal(
            owner=self.owner,
            scopes=frozenset(self.scopes),
            tasks=self.tasks,
            rate=Rate.parse(self.rate) if self.rate else None,
            max_unfinished=self.max_unfinished,
            max_schedules=self.max_schedules,
            max_followed=self.max_followed,
            key_id=self.id,
        )


def new_key(taken: Iterable[str], **fields: Any) -> tuple[str, ApiKey]:
    """
    Return a new key, and its entry.

    Args:
        taken: The ids that there are.
        fields: What the key may do, as JSON has it.

    Raises:
        pydantic.ValidationError: A field makes no sense.
    """
    key_id = secrets.token_hex(4)
    while key_id in taken:
        key_id = secrets.token_hex(4)
    key = f"tcb_{key_id}_{secrets.token_urlsafe(32)}"
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"id": key_id, "hash": _hash(key), "created_at": created_at, **fields}
    return key, ApiKey.model_validate_json(json.dumps(entry))


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def load(path: Path) -> dict[str, ApiKey]:
    """
    Return a file's keys by their ids. Blocks.

    Raises:
        SettingsError: The file cannot be used; the message says what is wrong with it, and never quotes it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except FileNotFoundError:
        raise SettingsError(f"{_told(path)} does not exist: make the first key, as in: {_EXAMPLE}") from None
    except OSError as exc:
        raise SettingsError(f"{_told(path)} cannot be read: {exc.strerror}") from exc
    if mode & stat.S_IRWXO:
        raise SettingsError(f"{_told(path)} is open to everybody on this machine: chmod o= {path}")
    return _parse(text, path)


_EXAMPLE = "tcb keys make --owner alice"


def _told(path: Path) -> str:
    return f"API_KEYS_FILE={path}"


def _parse(text: bytes, path: Path) -> dict[str, ApiKey]:
    try:
        document = json.loads(text)
    except ValueError as exc:
        where = f"line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else "it is not UTF-8"
        raise SettingsError(f"{_told(path)} is not JSON ({where}): correct it, or make another") from None
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list) or len(document) != 1:
        raise SettingsError(f'{_told(path)} should be {{"keys": [...]}}: make one, as in: {_EXAMPLE}')
    keys: dict[str, ApiKey] = {}
    for number, entry in enumerate(document["keys"], 1):
        key = _parse_entry(entry, f"{_told(path)}, key {number}{_name(entry)}")
        if key.id in keys:
            raise SettingsError(f"{_told(path)}, key {number}: id {key.id} is there twice: remove one")
        keys[key.id] = key
    return keys


def _parse_entry(entry: Any, name: str) -> ApiKey:
    try:
        return ApiKey.model_validate_json(json.dumps(entry))
    except pydantic.ValidationError as exc:
        raise SettingsError(f"{name}: {tell_faults(exc)}; correct it, or remove the key") from None


def _name(entry: Any) -> str:
    """Return the name of an entry for messages: its id, if that can be shown."""
    key_id = entry.get("id") if isinstance(entry, dict) else None
    return f" (id {key_id})" if isinstance(key_id, str) and re.fullmatch("[a-z0-9]{1,32}", key_id) else ""


def tell_faults(error: pydantic.ValidationError) -> str:
    """Return what is wrong with an entry, without showing its values."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"]))) for each in details)


class Keyring:
    """
    The valid keys: those of the file, which is read again when it changes.

    Args:
        path: The file. The constructor reads it, and blocks.

    Raises:
        SettingsError: The file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = _version(path)
        self._keys: Mapping[str, ApiKey] = load(path)

    def find(self, key: str) -> Principal | None:
        """Return the principal who has this key; None if there is no such key, or it has expired."""
        match = _KEY.fullmatch(key)
        entry = self._keys.get(match[1]) if match else None
        # A lookup of an unknown id takes as long as that of a known one.
        fits = hmac.compare_digest(_hash(key), entry.hash if entry else _NO_HASH)
        return entry.principal if entry and fits and not entry.has_expired else None

    def note(self, principal: Principal) -> str:
        """Return what a session stores of a key: its id and a part of its hash, which no other key has."""
        return f"{principal.key_id}.{self._keys[principal.key_id].hash[:_NOTED]}"

    def find_noted(self, note: str) -> Principal | None:
        """Return the principal who has the key of a note; None if the key is gone, replaced or expired."""
        entry = self._keys.get(note.partition(".")[0])
        if entry is None or entry.has_expired or note != self.note(entry.principal):
            return None
        return entry.principal

    def owners(self) -> list[Owner]:
        """Return the owners who may have schedules, and what their keys allow these."""
        found: dict[str, list[ApiKey]] = {}
        for key in self._keys.values():
            if key.principal.may("schedule") and not key.has_expired:
                found.setdefault(key.owner, []).append(key)
        return [_owner(name, keys) for name, keys in sorted(found.items())]

    async def watch(self) -> None:
        """Check the file every second, for ever."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the file if it has changed. If it cannot be used, that is logged, and the old keys stay valid."""
        version = await asyncio.to_thread(_version, self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = await asyncio.to_thread(load, self._path)
        except SettingsError as exc:
            _log.error("%s; the keys stay as they were", exc)
        else:
            _log.info("API keys read again: %d", len(self._keys))


def _owner(name: str, keys: Sequence[ApiKey]) -> Owner:
    ends = [None if key.expires_at is None else milliseconds(key.expires_at) for key in keys]
    most = [key.max_unfinished for key in keys]
    return Owner(
        name,
        None if None in ends else max(filter(None, ends)),
        None if None in most else max(filter(None, most)),
        " ".join(sorted({pattern for key in keys for pattern in key.tasks})),
    )


def _version(path: Path) -> tuple[int, ...] | None:
    """Return a value that changes when the file is changed or replaced; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
