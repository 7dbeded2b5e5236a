"""``tcb keys``: makes, lists and revokes API keys in ``API_KEYS_FILE``, and shows owners' secrets."""

import argparse
import contextlib
import fcntl
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic

from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.service.access.keys import ROLES, SCOPES, ApiKey, load, new_key, tell_faults
from tornado_celery_bridge.service.resources.callbacks.signatures import Secrets

__all__ = ("add_parser",)

#: What argparse says of wrong options.
USAGE_ERROR = 2

_COLUMNS = ("id", "owner", "scopes", "tasks", "rate", "max_unfinished", "created_at", "expires_at", "note")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``keys`` and what it can do to the command line."""
    parser = commands.add_parser("keys", help="make, list and revoke API keys", description="See docs/http.md.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    make = actions.add_parser("make", help="make a key, and print it this once")
    make.add_argument("--owner", required=True, help="whose the jobs are; several keys may have the same")
    may = make.add_mutually_exclusive_group()
    may.add_argument("--scopes", type=_words, default=["submit", "read", "cancel"], help=f"of {','.join(SCOPES)}")
    may.add_argument("--role", choices=ROLES, help="a name for some scopes")
    make.add_argument("--tasks", type=_words, default=["*"], help="names, as in tasks.text.*,tasks.data.profile_csv")
    make.add_argument("--rate", help="requests, as in 10/s, 600/m or 5000/h; unlimited if left out")
    make.add_argument("--max-unfinished", type=int, metavar="N", help="jobs at a time; unlimited if left out")
    make.add_argument("--expires-at", metavar="TIME", help="as in 2027-01-31T00:00:00Z; never if left out")
    make.add_argument("--note", help="for whoever reads the list")
    make.set_defaults(run=_make)
    actions.add_parser("list", help="show the keys, without their secrets").set_defaults(run=_list)
    revoke = actions.add_parser("revoke", help="remove a key; the service knows within a second")
    revoke.add_argument("id", help="as the list shows it")
    revoke.set_defaults(run=_revoke)
    secret = actions.add_parser("secret", help="print the secret by which an owner's callbacks are signed")
    secret.add_argument("owner", nargs="?", default="", help="left out where there are no keys")
    secret.set_defaults(run=_secret)


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _make(options: argparse.Namespace) -> int:
    names = ("owner", "scopes", "tasks", "rate", "max_unfinished", "expires_at", "note")
    fields = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.role:
        fields["scopes"] = ROLES[options.role]
    try:
        new_key((), **fields)  # what makes no sense is said before there is a file
    except pydantic.ValidationError as exc:
        print(f"web keys make: {tell_faults(exc)}", file=sys.stderr)
        return USAGE_ERROR
    with _edited(_path(), create=True) as keys:
        key, entry = new_key(keys, **fields)
        keys[entry.id] = entry
    print(f"Key {entry.id} of {entry.owner}, shown this once:", file=sys.stderr, flush=True)
    print(key)
    return 0


def _list(_: argparse.Namespace) -> int:
    rows = [tuple(column.replace("_", " ") for column in _COLUMNS)]
    rows += [tuple(_cell(getattr(key, column)) for column in _COLUMNS) for key in load(_path()).values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _revoke(options: argparse.Namespace) -> int:
    with _edited(_path()) as keys:
        if keys.pop(options.id, None) is None:
            raise SettingsError("there is no key with this id: see tcb keys list")
    print(f"Key {options.id} is revoked.", file=sys.stderr)
    return 0


def _secret(options: argparse.Namespace) -> int:
    print(Secrets(Settings.from_environment().callback_secret_file).of(options.owner))
    return 0


def _path() -> Path:
    path = os.environ.get("API_KEYS_FILE")
    if not path:
        raise SettingsError("API_KEYS_FILE is not set: it says where the keys are, as in API_KEYS_FILE=keys.json")
    return Path(path).resolve()  # a link stays a link


@contextlib.contextmanager
def _edited(path: Path, *, create: bool = False) -> Iterator[dict[str, ApiKey]]:
    """Yield the file's keys, which nobody else changes meanwhile; what they are at the end is written."""
    with _locked(path, create) as found:
        keys = load(path) if found.st_size else {}
        yield keys
        _replace(path, keys, found)


@contextlib.contextmanager
def _locked(path: Path, create: bool) -> Iterator[os.stat_result]:
    """Lock the file itself, and not another that would be left behind; it may be replaced while we wait for it."""
    while True:
        descriptor = _open(path, create)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            found = os.fstat(descriptor)
            if _is_at(path, found):
                yield found
                return
        finally:
            os.close(descriptor)


def _is_at(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), found)
    except FileNotFoundError:
        return False


def _open(path: Path, create: bool) -> int:
    if not create:
        load(path)  # says what to do if there is none
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    except OSError as exc:
        raise SettingsError(f"API_KEYS_FILE={path} cannot be written: {exc.strerror}") from exc


def _replace(path: Path, keys: Mapping[str, ApiKey], old: os.stat_result) -> None:
    """Write the file whole or not at all; who may read it stays as it was."""
    document = {"keys": [key.model_dump(mode="json", exclude_none=True) for key in keys.values()]}
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            with contextlib.suppress(PermissionError):
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            file.write(json.dumps(document, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise SettingsError(f"API_KEYS_FILE={path} cannot be written: {exc.strerror}") from exc
