"""
Keeps large inputs and results out of messages and out of Redis.

Theory of operation. A large value is a *blob* in a store: a folder, or anything else that fsspec has a URL for. A
:class:`Stored` goes in its place wherever the value would go: into messages, from one task of a chain to the next, and
into the result backend. To kombu it is a type of its own (``{"__type__", "__value__"}``), which no value from elsewhere
can be: see :mod:`.encoding`. It has a name and never a path. So whatever a client sends or a task returns, only blobs
of this app's own store are read, and only those that a reference was made for.

A blob is plain JSON. Some results hold values that JSON does not have (times, bytes). Such a result is stored a second
time, encoded as Celery does, so that the next task gets exactly what it would get by a message.

Do not call this on the event loop: fsspec blocks. https://filesystem-spec.readthedocs.io
"""

import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Self

from celery import Celery
from celery.exceptions import ImproperlyConfigured, SoftTimeLimitExceeded
from kombu.utils import json as kombu_json

from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.exceptions import BlobLost, StoreUnavailable

log = logging.getLogger(__name__)

#: The most bytes of JSON that an input or a result may have in messages and in Redis. A larger one goes to the store.
MAX_INLINE = 256 * 1024
#: Characters of the longest text that stays in the message, because a reference would not be shorter.
SHORT = 100

#: At the end of a name: there is a second blob, which is encoded as Celery does.
_TYPED = "-typed"
#: Not a blob's name: what tells a store from others.
_IDENTITY = "store-identity"
_NAME = re.compile(rf"[0-9a-f]{{32}}(?:{_TYPED})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Stored:
    """
    A reference to a value in the store.

    .. versionadded:: 0.1.0
    """

    #: The blob's name in the store.
    name: str
    #: The size of the blob in bytes; it is JSON.
    size: int
    #: The member of the blob's value that this refers to; None: the whole value.
    member: str | int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise ValueError(f"{self.name!r} is not the name of a blob")

    def __repr__(self) -> str:
        return f"<of {self.size} bytes in {self.name}>"

    @classmethod
    def new(cls, size: int, *, typed: bool = False) -> Self:
        """Return a reference to a blob that will be written, with a name that nobody can guess."""
        return cls(uuid.uuid4().hex + (_TYPED if typed else ""), size)

    def encode(self) -> list[Any]:
        """Return what :meth:`decode` takes, as JSON values."""
        return [self.name, self.size, self.member]

    @classmethod
    def decode(cls, encoded: list[Any]) -> Self:
        """
        Return the reference that was encoded.

        Raises:
            ValueError: Its name is not the name of a blob.
        """
        return cls(*encoded)

    def in_place_of(self, given: dict[str, Any] | list[Any]) -> dict[str, Any] | list[Any]:
        """Return *given*, the value of the blob, with references in place of all members that are not short."""
        if isinstance(given, dict):
            return {name: self._or_short(name, value) for name, value in given.items()}
        return [self._or_short(place, value) for place, value in enumerate(given)]

    def _or_short(self, member: str | int, value: Any) -> Any:
        if value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= SHORT):
            return value
        return replace(self, member=member)


def _make_private(files: Any, folder: str) -> None:
    """Make a folder, on a disk for its owner alone: what jobs take and return is nobody else's on this machine."""
    files.makedirs(folder, exist_ok=True)
    if "file" in ([files.protocol] if isinstance(files.protocol, str) else files.protocol):
        os.chmod(folder, 0o700)


kombu_json.register_type(Stored, "tornado_celery_bridge.Stored", Stored.encode, Stored.decode)


class Store:
    """
    The store of an app's blobs. Every call blocks.

    Args:
        url: The URL of a folder, for fsspec: ``file:///var/lib/jobs``, ``s3://bucket/folder``…

    Raises:
        ImproperlyConfigured: fsspec, or a package that it needs for this URL, is not installed.

    .. versionadded:: 0.1.0
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            self._files()
        except Exception as exc:  # of any of fsspec's implementations
            raise ImproperlyConfigured(f"job_store_url: the store can't be used: {exc}") from exc

    @classmethod
    def of_app(cls, app: Celery) -> Self | None:
        """
        Return the store that an app's setting ``job_store_url`` names; None without one.

        Raises:
            ImproperlyConfigured: As for the class, or the app's messages or results are not JSON.
        """
        url = app.conf.get("job_store_url")
        if not url:
            return None
        if {app.conf.task_serializer, app.conf.result_serializer} != {"json"}:
            raise ImproperlyConfigured("job_store_url needs task_serializer = result_serializer = 'json'")
        return cls(url)

    def _files(self) -> tuple[Any, str]:
        """Return the file system, which fsspec keeps for each process and thread, and the folder in it."""
        from fsspec.core import url_to_fs  # an extra, which only apps with a store need

        files, folder = url_to_fs(self._url)
        return files, str(folder).rstrip("/")

    def _do(self, name: str, do: Callable[[Any, str], Any]) -> Any:
        try:
            files, folder = self._files()
            return do(files, f"{folder}/{name}")
        except SoftTimeLimitExceeded:
            raise
        except FileNotFoundError as exc:
            raise BlobLost(f"{name} is no longer in the store") from exc
        except Exception as exc:  # of any of fsspec's implementations
            raise StoreUnavailable(f"the store does not work: {exc}", retry_after=1.0) from exc

    def write(self, name: str, data: bytes) -> None:
        """
        Write *data* under a new name.

        Raises:
            StoreUnavailable: It was not written.
        """

        def write(files: Any, path: str) -> None:
            try:
                files.pipe_file(path, data)
            except FileNotFoundError:  # the folder does not exist yet
                _make_private(files, path.rpartition("/")[0])
                files.pipe_file(path, data)

        try:
            self._do(name, write)
        except BlobLost as exc:  # a bucket, for instance
            raise StoreUnavailable(f"the store is not there: {exc.__cause__}", retry_after=1.0) from exc

    def open(self, stored: Stored) -> BinaryIO:
        """
        Return the blob as an open file of plain JSON, which the caller closes.

        Raises:
            BlobLost: The blob is not in the store.
            StoreUnavailable: The store does not work now.
        """
        file: BinaryIO = self._do(stored.name, lambda files, path: files.open(path, "rb"))
        return file

    def read(self, stored: Stored) -> bytes:
        """Return the blob, which is plain JSON. Raises as :meth:`open` does."""
        return self._read(stored.name)

    def _read(self, name: str) -> bytes:
        data: bytes = self._do(name, lambda files, path: files.cat_file(path))
        return data

    def identity(self) -> str:
        """
        Return a text that no other store has. It is in the store, so processes that name it differently find the same.

        Raises:
            StoreUnavailable: The store does not work now.
        """
        try:
            return self._read(_IDENTITY).decode()
        except BlobLost:
            self.write(_IDENTITY, uuid.uuid4().hex.encode())
            return self._read(_IDENTITY).decode()  # of two who write it at once, one is the last

    def remove(self, name: str) -> None:
        """
        Remove a blob. Nothing happens if it is not there.

        Raises:
            StoreUnavailable: It may still be there.
            ValueError: This is not the name of a blob.
        """
        for each in _blobs_of(Stored(name, 0).name):
            try:
                self._do(each, lambda files, path: files.rm_file(path))
            except BlobLost:
                continue

    def remove_all(self, names: Iterable[str]) -> None:
        """
        Remove blobs whose names come from the ledger.

        Raises:
            StoreUnavailable: Some may still be there.
        """
        for name in names:
            try:
                self.remove(name)
            except ValueError as exc:  # somebody else wrote this name into Redis
                log.warning("not removed from the store: %s", exc)

    # Values.

    def load(self, stored: Stored) -> Any:
        """
        Return the value that *stored* refers to.

        Raises:
            BlobLost, StoreUnavailable: As :meth:`open`.
        """
        return _Loader(self).load(stored)

    def load_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """
        Return a task's arguments, with values in place of references.

        In the first argument, references may be in a list, or in lists in it: Celery puts the results of a chord's
        header there.

        Raises:
            BlobLost, StoreUnavailable: As :meth:`open`.
        """
        loader = _Loader(self)
        first = [loader.load_all(value) for value in args[:1]]
        rest = [loader.load(value) for value in args[1:]]
        return [*first, *rest], {name: loader.load(value) for name, value in kwargs.items()}

    def keep(self, value: Any, announce: Callable[[str], None]) -> Any:
        """
        Return *value*, or a reference to it if it is large.

        Args:
            value: What a task returned.
            announce: Called with the name of the blob, before it is written.

        Raises:
            StoreUnavailable: It is large, and was not written.
        """
        plain, exact = _encoded(value)
        if len(plain) <= MAX_INLINE:
            return value
        stored = Stored.new(len(plain), typed=not exact)
        announce(stored.name)
        if not exact:
            self.write(_blobs_of(stored.name)[1], encoding.dumps(value).encode())
        self.write(stored.name, plain)
        return stored


class _Loader:
    """Loads values. It reads each blob once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loaded: dict[str, Any] = {}

    def load_all(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.load_all(each) for each in value]
        return self.load(value)

    def load(self, value: Any) -> Any:
        if not isinstance(value, Stored):
            return value
        if value.name not in self._loaded:
            self._loaded[value.name] = self._content(value)
        content = self._loaded[value.name]
        return content if value.member is None else content[value.member]

    def _content(self, stored: Stored) -> Any:
        if not stored.name.endswith(_TYPED):
            # With a hook in Python, the decoder lets an event loop in this process run in between. For 450,000 objects
            # the loop waits 16 ms, instead of 620.
            return json.loads(self._store.read(stored), object_hook=lambda made: made)
        return encoding.loads(self._store._read(_blobs_of(stored.name)[1]))


def _blobs_of(name: str) -> list[str]:
    return [name, f"{name}.celery"] if name.endswith(_TYPED) else [name]


def _encoded(value: Any) -> tuple[bytes, bool]:
    """Return *value* as JSON, and whether the JSON holds it exactly."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(), True
    except (TypeError, ValueError):
        return dumps(value).encode(), False
