"""The store on two of fsspec's implementations: blobs come, stand for values, and go."""

import json
import pickle
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured, SoftTimeLimitExceeded
from celery.utils.saferepr import saferepr
from kombu.utils import json as kombu_json

from tornado_celery_bridge import BlobLost, Stored, StoreUnavailable
from tornado_celery_bridge.base.store import MAX_INLINE, Store

LARGE = "x" * MAX_INLINE


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path}/a b/blobs" if request.param == "file" else f"memory://{uuid.uuid4().hex}")


def kept(store: Store, value: Any) -> Stored:
    announced: list[str] = []
    stored = store.keep(value, announced.append)
    assert isinstance(stored, Stored)
    assert announced == [stored.name]
    return stored


def test_a_value_that_is_not_large_is_itself(store: Store) -> None:
    for value in (None, LARGE[2:], object, [datetime.now(UTC)], float("nan")):
        assert store.keep(value, pytest.fail) is value


def test_a_large_value_is_kept_and_removed(store: Store) -> None:
    stored = kept(store, {"é": [LARGE, None, 1.5, True]})
    with store.open(stored) as file:
        content = file.read()
    assert len(content) == stored.size
    assert (
        content
        == store.read(stored)
        == json.dumps({"é": [LARGE, None, 1.5, True]}, ensure_ascii=False, separators=(",", ":")).encode()
    )
    assert store.load(stored) == {"é": [LARGE, None, 1.5, True]}
    for _ in range(2):
        store.remove(stored.name)
        for read in (store.open, store.read, store.load):
            with pytest.raises(BlobLost, match=f"{stored.name} is no longer in the store"):
                read(stored)


def test_what_json_has_not_is_kept_twice(store: Store) -> None:
    value = [LARGE, datetime(2026, 1, 2, tzinfo=UTC), b"\xff", float("inf"), uuid.UUID(int=1)]
    stored = kept(store, value)
    assert store.load(stored) == value
    shown = [LARGE, "2026-01-02T00:00:00+00:00", "/w==", None, str(uuid.UUID(int=1))]
    assert json.loads(store.read(stored)) == shown
    store.remove(stored.name)
    with pytest.raises(BlobLost):
        store.load(stored)
    files, folder = store._files()
    assert files.find(folder) == []


def test_an_object_that_looks_like_kombus_is_no_more_than_that(store: Store) -> None:
    value = {"__type__": "datetime", "__value__": LARGE}
    assert store.load(kept(store, value)) == value


def test_arguments(store: Store) -> None:
    given = {"text": LARGE, "top": 3, "deep": [{"a": 1}], "short": "s"}
    stored = Stored.new(1)
    store.write(stored.name, json.dumps(given).encode())
    named = stored.in_place_of(given)
    assert isinstance(named, dict)
    assert {name: value for name, value in named.items() if not isinstance(value, Stored)} == {"top": 3, "short": "s"}
    result = kept(store, LARGE)
    args, kwargs = store.load_arguments(([1, [result], result], stored, [result]), named)
    assert kwargs == given
    assert args == [[1, [LARGE], LARGE], given, [result]]
    assert store.load_arguments((), {}) == ([], {})
    assert saferepr((stored,)) == f"(<of 1 bytes in {stored.name}>,)"


def test_a_reference_travels_as_json_and_as_no_other_json() -> None:
    stored = Stored.new(5)
    for each in (stored, *stored.in_place_of([LARGE])):
        assert kombu_json.loads(kombu_json.dumps([each])) == pickle.loads(pickle.dumps([each])) == [each]
    assert json.loads(kombu_json.dumps(stored)).keys() == {"__type__", "__value__"}


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "a" * 31, "A" * 32, f"{'a' * 32}\n", "", 5]
)
def test_a_name_is_no_path(name: Any) -> None:
    with pytest.raises(ValueError, match="is not the name of a blob"):
        kombu_json.loads(json.dumps({"__type__": "tornado_celery_bridge.Stored", "__value__": [name, 1, None]}))


def test_nothing_but_blobs_is_removed(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with pytest.raises(ValueError, match="is not the name of a blob"):
        Store(f"file://{tmp_path}/blobs").remove("../other")
    assert (tmp_path / "other").exists()


def test_a_store_that_does_not_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(f"file://{tmp_path}/file/blobs")
    with pytest.raises(StoreUnavailable, match="the store does not work"):
        store.write(Stored.new(1).name, b"1")


def test_a_time_limit_is_no_fault_of_the_stores(store: Store) -> None:
    def late(*args: Any) -> None:
        raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        store._do("name", late)


def test_settings() -> None:
    app = Celery(set_as_current=False)
    assert Store.of_app(app) is None
    app.conf.job_store_url = "nonsense://x"
    with pytest.raises(ImproperlyConfigured, match="job_store_url: the store can't be used: Protocol not known"):
        Store.of_app(app)
    app.conf.update(job_store_url="memory://x", result_serializer="pickle")
    with pytest.raises(ImproperlyConfigured, match="'json'"):
        Store.of_app(app)
