"""``tcb keys``: makes, lists and revokes API keys in ``API_KEYS_FILE``, and shows owners' secrets."""

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pydantic

from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.cli import tables
from tornado_celery_bridge.service.access.keys import ROLES, SCOPES, ApiKey, load, new_key, tell_faults
from tornado_celery_bridge.service.resources.callbacks.signatures import Secrets

_COLUMNS = ("id", "owner", "scopes", "tasks", "rate", "max_unfinished", "created_at", "expires_at", "note")


def words(value: str | list[str]) -> list[str]:
    """Return the words of a list that has commas or spaces between them."""
    return value if isinstance(value, list) else value.replace(",", " ").split()


@click.group()
def keys() -> None:
    """
    Make, list and revoke API keys, in the file API_KEYS_FILE: see docs/http/keys.md.

    \b
    tcb keys make --owner alice --tasks 'mail.*' --rate 10/s
    tcb keys list
    """


@keys.command()
@click.option("--owner", required=True, help="Whose the jobs are; several keys may have the same.")
@click.option("--scopes", type=words, metavar="LIST", help=f"Of {','.join(SCOPES)}; submit,read,cancel if left out.")
@click.option("--role", type=click.Choice(list(ROLES)), help="A name for some scopes, instead of them.")
@click.option(
    "--tasks",
    type=words,
    metavar="LIST",
    default="*",
    help="Names, as in tasks.text.*,tasks.data.profile_csv; all if left out.",
)
@click.option("--rate", help="Requests, as in 10/s, 600/m or 5000/h; unlimited if left out.")
@click.option("--max-unfinished", type=int, metavar="N", help="Jobs at a time; unlimited if left out.")
@click.option("--max-schedules", type=int, metavar="N", help="Schedules of the owner's; 100 if left out.")
@click.option("--max-followed", type=int, metavar="N", help="Jobs followed at a time; 1,000 if left out.")
@click.option("--expires-at", metavar="TIME", help="As in 2027-01-31T00:00:00Z; never if left out.")
@click.option("--note", help="For whoever reads the list.")
def make(scopes: list[str] | None, role: str | None, **given: Any) -> None:
    """Make a key, and print it this once."""
    if scopes and role:
        raise click.UsageError("give --scopes or --role, not both")
    given["scopes"] = ROLES[role] if role else scopes or ["submit", "read", "cancel"]
    fields = {name: value for name, value in given.items() if value is not None}
    try:
        new_key((), **fields)  # what is wrong is said before there is a file
    except pydantic.ValidationError as exc:
        raise click.UsageError(tell_faults(exc)) from exc
    with _edited(_path(), create=True) as kept:
        key, entry = new_key(kept, **fields)
        kept[entry.id] = entry
    click.echo(f"Key {entry.id} of {entry.owner}, shown this once:", err=True)
    click.echo(key)


@keys.command("list")
def list_() -> None:
    """Show the keys, without their secrets."""
    rows = [tuple(column.replace("_", " ") for column in _COLUMNS)]
    rows += [tuple(_cell(getattr(key, column)) for column in _COLUMNS) for key in load(_path()).values()]
    tables.write(rows)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return ",".join(value) if isinstance(value, tuple) else str(value)


@keys.command()
@click.argument("id")
def revoke(id: str) -> None:
    """
    Remove a key.

    ID is as the list shows it. The service knows within a second.
    """
    with _edited(_path()) as kept:
        if kept.pop(id, None) is None:
            raise SettingsError("there is no key with this id: see tcb keys list")
    click.echo(f"Key {id} is revoked.", err=True)


@keys.command()
@click.argument("owner", default="")
def secret(owner: str) -> None:
    """
    Print the secret of an owner's callbacks.

    It signs them. Where there are no API keys, leave OWNER out.
    """
    click.echo(Secrets(Settings.from_environment().callback_secret_file).of(owner))


def _path() -> Path:
    if (path := Settings.from_environment().api_keys_file) is None:
        raise SettingsError("API_KEYS_FILE is not set: it says where the keys are, as in API_KEYS_FILE=keys.json")
    return path.resolve()  # a link stays a link


@contextlib.contextmanager
def _edited(path: Path, *, create: bool = False) -> Iterator[dict[str, ApiKey]]:
    """Yield the file's keys, which nobody else changes meanwhile; what they are at the end is written."""
    with _locked(path, create) as found:
        kept = load(path) if found.st_size else {}
        yield kept
        _replace(path, kept, found)


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
