"""
Large inputs and results, kept out of messages and out of Redis.

Theory of operation. What is large is a *blob* in a store: a folder, or whatever else fsspec has a URL for. In its place
a :class:`Stored` goes wherever the value would: into messages, from one task of a chain to the next, into the result
backend. To kombu it is a type of its own (``{"__type__", "__value__"}``), so no JSON that a client may send is one.
It has a name and never a path: whatever a message says, nothing but blobs of this app's own store is read.

A blob is plain JSON. A result with more in it than JSON has (a time, bytes) is there a second time, as Celery has it,
so that the next task gets exactly what it would get by a message.

Nothing here is for the event loop: fsspec blocks. https://filesystem-spec.readthedocs.io
"""

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Self

from celery import Celery
from celery.exceptions import ImproperlyConfigured, SoftTimeLimitExceeded
from kombu.utils import json as kombu_json

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.exceptions import BlobLost, StoreUnavailable

__all__ = ("MAX_INLINE", "Store", "Stored")

log = logging.getLogger(__name__)

#: Bytes of JSON that an input or a result may have in messages and in Redis; a larger one goes to the store.
MAX_INLINE = 256 * 1024
#: Characters of a text that goes with the message as it is, as a reference would be no shorter.
SHORT = 100

#: In a name: there is a second blob, as Celery has the value.
_TYPED = "-typed"
_NAME = re.compile(rf"[0-9a-f]{{32}}(?:{_TYPED})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Stored:
    """
    Stands for a value that is in the store.

    .. versionadded:: 0.1.0
    """

    #: The blob's name in the store.
    name: str
    #: Bytes of the blob, which is JSON.
    size: int
    #: Which member of what is in the blob this stands for; None for all of it.
    member: str | int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise ValueError(f"{self.name!r} is no name of a blob")

    def __repr__(self) -> str:
        return f"<of {self.size} bytes in {self.name}>"

    @classmethod
    def new(cls, size: int, *, typed: bool = False) -> Self:
        """Return what stands for a blob that is to be written, under a name that nobody can guess."""
        return cls(uuid.uuid4().hex + (_TYPED if typed else ""), size)

    def encode(self) -> list[Any]:
        """Return what :meth:`decode` takes, for JSON."""
        return [self.name, self.size, self.member]

    @classmethod
    def decode(cls, encoded: list[Any]) -> Self:
        """
        Return what was encoded.

        Raises:
            ValueError: That is no name of a blob.
        """
        return cls(*encoded)

    def in_place_of(self, given: dict[str, Any] | list[Any]) -> dict[str, Any] | list[Any]:
        """Return *given*, which is in the blob, with references in the places of all members that are not short."""
        if isinstance(given, dict):
            return {name: self._or_short(name, value) for name, value in given.items()}
        return [self._or_short(place, value) for place, value in enumerate(given)]

    def _or_short(self, member: str | int, value: Any) -> Any:
        if value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= SHORT):
            return value
        return replace(self, member=member)


kombu_json.register_type(Stored, "tornado_celery_bridge.Stored", Stored.encode, Stored.decode)


class Store:
    """
    Where an app's blobs are. Every call blocks.

    Args:
        url: A folder's, as fsspec spells it: ``file:///var/lib/jobs``, ``s3://bucket/folder``…

    Raises:
        ImproperlyConfigured: fsspec, or what it needs for this URL, is not there.

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
            ImproperlyConfigured: As for the class; or the app's messages or results are not JSON.
        """
        url = app.conf.get("job_store_url")
        if not url:
            return None
        if {app.conf.task_serializer, app.conf.result_serializer} != {"json"}:
            raise ImproperlyConfigured("job_store_url is for apps with task_serializer = result_serializer = 'json'")
        return cls(url)

    def _files(self) -> tuple[Any, str]:
        """Return the file system, which fsspec keeps for each process and thread, and the folder in it."""
        from fsspec.core import url_to_fs  # an extra: only who has a store needs it

        files, folder = url_to_fs(self._url)
        return files, str(folder).rstrip("/")

    def _do(self, name: str, do: Callable[[Any, str], Any]) -> Any:
        try:
            files, folder = self._files()
            return do(files, f"{folder}/{name}")
        except SoftTimeLimitExceeded:
            raise
        except FileNotFoundError as exc:
            raise BlobLost(f"what was kept as {name} is no longer in the store") from exc
        except Exception as exc:  # of any of fsspec's implementations
            raise StoreUnavailable(f"the store does not work: {exc}", retry_after=1.0) from exc

    def write(self, name: str, data: bytes) -> None:
        """
        Keep *data* under a new name.

        Raises:
            StoreUnavailable: It is not kept.
        """

        def write(files: Any, path: str) -> None:
            try:
                files.pipe_file(path, data)
            except FileNotFoundError:  # the first one in this folder
                files.makedirs(path.rpartition("/")[0], exist_ok=True)
                files.pipe_file(path, data)

        try:
            self._do(name, write)
        except BlobLost as exc:  # of a bucket, say
            raise StoreUnavailable(f"the store is not there: {exc.__cause__}", retry_after=1.0) from exc

    def open(self, stored: Stored) -> BinaryIO:
        """
        Return the blob as a file of plain JSON; close it.

        Raises:
            BlobLost: It is not there.
            StoreUnavailable: Not known now.
        """
        file: BinaryIO = self._do(stored.name, lambda files, path: files.open(path, "rb"))
        return file

    def read(self, stored: Stored) -> bytes:
        """Return the blob, plain JSON; errors as :meth:`open`."""
        return self._read(stored.name)

    def _read(self, name: str) -> bytes:
        data: bytes = self._do(name, lambda files, path: files.cat_file(path))
        return data

    def remove(self, name: str) -> None:
        """
        Remove a blob; one that is not there is removed.

        Raises:
            StoreUnavailable: It may be there still.
            ValueError: That is no name of a blob.
        """
        for each in _blobs_of(Stored(name, 0).name):
            try:
                self._do(each, lambda files, path: files.rm_file(path))
            except BlobLost:
                continue

    def remove_all(self, names: Iterable[str]) -> None:
        """
        Remove blobs by names that the ledger has.

        Raises:
            StoreUnavailable: Some may be there still.
        """
        for name in names:
            try:
                self.remove(name)
            except ValueError as exc:  # somebody else wrote that into Redis
                log.warning("not removed from the store: %s", exc)

    # Values.

    def load(self, stored: Stored) -> Any:
        """
        Return what *stored* stands for.

        Raises:
            BlobLost, StoreUnavailable: As :meth:`open`.
        """
        return _Loader(self).load(stored)

    def load_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """
        Return a task's arguments with what references among them stand for.

        In the first one, where Celery puts the results of a chord's header, they may be in a list, or in lists in it.

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
            value: Whatever a task returned.
            announce: Called with the name of the blob before it is written.

        Raises:
            StoreUnavailable: It is large, and not kept.
        """
        plain, exact = _encoded(value)
        if len(plain) <= MAX_INLINE:
            return value
        stored = Stored.new(len(plain), typed=not exact)
        announce(stored.name)
        if not exact:
            self.write(_blobs_of(stored.name)[1], kombu_json.dumps(value).encode())
        self.write(stored.name, plain)
        return stored


class _Loader:
    """Loads values, each blob once."""

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
            # A hook of Python's own lets a loop in this process go on: of 450,000 objects after 16 ms, and not 620.
            return json.loads(self._store.read(stored), object_hook=lambda made: made)
        return kombu_json.loads(self._store._read(_blobs_of(stored.name)[1]))


def _blobs_of(name: str) -> list[str]:
    return [name, f"{name}.celery"] if name.endswith(_TYPED) else [name]


def _encoded(value: Any) -> tuple[bytes, bool]:
    """Return *value* as JSON, and whether all of it is in there."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(), True
    except (TypeError, ValueError):
        return dumps(value).encode(), False
