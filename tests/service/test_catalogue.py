"""Type hints as schemas: what fits, what does not, and where it says so."""

import enum
import inspect
import typing
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import pytest
from celery import Celery, Task
from celery.exceptions import ImproperlyConfigured
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from tornado_celery_bridge.service.http.problems import Problem
from tornado_celery_bridge.service.resources.catalogue import Catalogue, ExposedTask
from tornado_celery_bridge.worker import install
from tornado_celery_bridge.worker.guard import settle

if typing.TYPE_CHECKING:
    from array import array


class Colour(enum.Enum):
    RED = "red"


class Point(BaseModel):
    x: int
    y: int = 0


class Pair(TypedDict):
    a: int
    b: str


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("catalogue", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield made
    made.close()


def nothing() -> None: ...


Expose = Callable[..., ExposedTask]


@pytest.fixture
def expose(app: Celery) -> Expose:
    def make(function: Callable[..., Any], **options: Any) -> ExposedTask:
        app.task(name="t", shared=False, exposed=True, **options)(function)  # type: ignore[no-untyped-call]
        return Catalogue(app).get("t")

    return make


def pointers(task: ExposedTask, given: Any) -> list[str]:
    with pytest.raises(Problem) as refused:
        task.arguments(given)
    assert refused.value.status_code == 422
    return [fault.pointer for fault in refused.value.faults]


async def ayields() -> typing.AsyncIterator[int]:
    yield 1


def yields() -> typing.Iterator["Point | None"]:
    yield None


def returns_text() -> typing.Generator[Pair, None, str]:
    yield {"a": 1, "b": ""}
    return ""


def yields_anything():  # type: ignore[no-untyped-def]
    yield 1


def yields_what_is_not_there() -> "typing.Iterator[Missing]":  # type: ignore[name-defined]  # noqa: F821
    yield 1


@pytest.mark.parametrize(
    ("function", "items", "result"),
    [
        (ayields, {"type": "integer"}, {"type": "null"}),
        (yields, {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]}, {"type": "null"}),
        (returns_text, {"title": "Pair", "type": "object"}, {"type": "string"}),
        (yields_anything, {}, {}),
        (yields_what_is_not_there, {}, {}),
        (nothing, None, {"type": "null"}),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_a_generator_yields_and_returns(
    expose: Expose, function: Callable[[], Any], items: dict[str, Any] | None, result: dict[str, Any]
) -> None:
    task = expose(function)
    for schema, expected in ((task.items_schema, items), (task.result_schema, result)):
        found = schema and {name: schema[name] for name in ("$ref", "anyOf", "type", "title") if name in schema}
        assert found == expected


def test_named_and_positional(expose: Expose) -> None:
    def f(x: int, y: str = "z") -> None: ...

    task = expose(f)
    assert task.arguments({"x": 1, "y": "a"}) == ([], {"x": 1, "y": "a"})
    assert task.arguments([1, "a"]) == ([1, "a"], {})
    assert task.arguments([1]) == ([1], {})
    assert pointers(task, {}) == ["/input/x"]
    assert pointers(task, []) == ["/input/0"]
    assert pointers(task, {"x": "1"}) == ["/input/x"]
    assert pointers(task, {"x": True}) == ["/input/x"]
    assert pointers(task, [1, 2]) == ["/input/1"]
    assert pointers(task, [1, "a", 3]) == ["/input/2"]
    assert sorted(pointers(task, {"z": 1, "a/b~": 2})) == ["/input/a~1b~0", "/input/x", "/input/z"]


def test_a_misspelt_parameter_says_what_was_meant(expose: Expose) -> None:
    def f(text: str = "") -> None: ...

    with pytest.raises(Problem) as refused:
        expose(f).arguments({"txet": ""})
    assert refused.value.faults[0].detail.endswith("did you mean text?")


@pytest.mark.parametrize(
    ("hint", "good", "bad", "pointer"),
    [
        (float, 1, "1", ""),
        (datetime, "2026-01-01T00:00:00Z", 5, ""),
        (Decimal, "1.5", [], ""),
        (Colour, "red", "blue", ""),
        (Literal["a", 1], 1, "b", ""),
        (list[int], [1, 2], [1, "2"], "/1"),
        (dict[str, list[int]], {"a": [1]}, {"a": [1, None]}, "/a/1"),
        (tuple[int, str], [1, "a"], [1, 2], "/1"),
        (int | list[int], [1], [1, "a"], "/1"),
        (Point, {"x": 1}, {"x": 1, "y": "2"}, "/y"),
        (Point, {"x": 1, "y": 2}, {"y": 1}, "/x"),
        (Pair, {"a": 1, "b": "x"}, {"a": 1}, "/b"),
        (list[Point], [{"x": 1}], [{"x": 1}, {"x": None}], "/1/x"),
        (int | None, None, "x", ""),
        (bytes, "text", 5, ""),
    ],
)
def test_hints(expose: Expose, hint: Any, good: Any, bad: Any, pointer: str) -> None:
    def f(value) -> None: ...  # type: ignore[no-untyped-def]

    f.__annotations__["value"] = hint
    task = expose(f)
    assert task.arguments({"value": good}).kwargs == {"value": good}
    assert f"/input/value{pointer}" in pointers(task, {"value": bad})
    assert task.input_schema["$schema"].endswith("2020-12/schema")
    assert task.input_schema["additionalProperties"] is False


def test_every_kind_of_parameter(expose: Expose) -> None:
    def f(a: int, /, b: int, *rest: int, c: int, **more: int) -> None: ...

    task = expose(f)
    assert task.arguments({"a": 1, "b": 2, "c": 3, "d": 4}) == ([1], {"b": 2, "c": 3, "d": 4})
    assert "/input/c" in str(pointers(task, {"a": 1, "b": 2}))


def test_variadic_positional(expose: Expose) -> None:
    def f(a: int, *rest: int) -> None: ...

    task = expose(f)
    assert task.arguments([1, 2, 3]).args == [1, 2, 3]
    assert pointers(task, [1, "a", 3, None]) == ["/input/1", "/input/3"]
    assert pointers(task, ["a", "a"]) == ["/input/0"]
    assert pointers(task, {"a": 1, "rest": [1]}) == ["/input/rest"]
    assert task.arguments([2], receives=True).args == [2]
    assert pointers(task, ["a"]) == ["/input/0"]
    assert task.rest_schema == {"type": "integer"}


def test_variadic_positional_after_a_result(expose: Expose) -> None:
    def f(first: int, second: int, *points: Point) -> None: ...

    task = expose(f)
    assert task.arguments([1, {"x": 1}], receives=True).args == [1, {"x": 1}]
    with pytest.raises(Problem) as refused:
        task.arguments([1, {"x": 1}, {"x": "a"}], receives=True)
    assert [fault.pointer for fault in refused.value.faults] == ["/input/2/x"]
    assert task.rest_schema == {}  # it refers to another


def test_variadic_named(expose: Expose) -> None:
    def f(a: int = 0, **more: Literal["x", "y"]) -> None: ...

    task = expose(f)
    assert task.arguments({"a": 1, "b": "x", "p0": "y"}).kwargs == {"a": 1, "b": "x", "p0": "y"}
    assert pointers(task, {"b": "z", "more": ["x"]}) == ["/input/b", "/input/more"]
    assert task.input_schema["additionalProperties"] == {"enum": ["x", "y"], "type": "string"}


def test_unique_by_all_arguments(expose: Expose) -> None:
    def f(a: int, *rest: int) -> None: ...

    task = expose(f, unique=True)
    given = ([1], [1, 2], [1, 2, 3], {"a": 1})
    first, second, third, named = (task.unique_by("me", each) for each in given)
    assert len({first, second, third}) == 3
    assert first == named


def test_parameters_may_be_called_anything(expose: Expose) -> None:
    def f(model_config: int, schema: int, copy: int, _x: int, json: int = 0) -> None: ...

    task = expose(f)
    given = {"model_config": 1, "schema": 2, "copy": 3, "_x": 4, "json": 5}
    assert task.arguments(given).kwargs == given
    assert pointers(task, {**given, "p0": 1}) == ["/input/p0"]


def test_a_bound_task_is_without_itself(expose: Expose) -> None:
    def f(self: "Task[..., Any]", x: int) -> int:
        return x

    assert list(expose(f, bind=True, autoretry_for=(OSError,)).input_schema["properties"]) == ["x"]


def test_hints_that_pydantic_does_not_know_allow_anything(expose: Expose, caplog: pytest.LogCaptureFixture) -> None:
    class Opaque: ...

    def f(x: "array[float]", y: Opaque, z, w: int = 0) -> "Missing": ...  # type: ignore[no-untyped-def,name-defined]  # noqa: F821

    f.__annotations__["y"] = Opaque
    task = expose(f)
    assert task.arguments({"x": 1, "y": "a", "z": None})
    assert pointers(task, {"x": 1, "y": "a", "z": None, "w": "0"}) == ["/input/w"]
    assert "the type hint of y says nothing" in caplog.text


def test_result_schema(expose: Expose) -> None:
    def f() -> Pair: ...  # type: ignore[empty-body]

    assert expose(f).result_schema["required"] == ["a", "b"]


@pytest.mark.parametrize("options", [{}, {"pydantic": True, "autoretry_for": (OSError,)}])
def test_a_task_of_async_def_has_the_schemas_of_any_other(app: Celery, expose: Expose, options: Any) -> None:
    def plain(point: Point, z: int = 0) -> Pair: ...  # type: ignore[empty-body]

    async def f(point: Point, z: int = 0) -> Pair: ...  # type: ignore[empty-body]

    install(app)
    task = expose(f, **options)
    settle(app)  # the task was made late
    assert inspect.iscoroutinefunction(inspect.unwrap(task.task.run))
    assert not inspect.iscoroutinefunction(task.task.run)
    del app.tasks["t"]
    same = expose(plain, **options)
    again = Catalogue(app).get("t")
    assert (task.input_schema, task.result_schema) == (same.input_schema, same.result_schema)
    assert again.input_schema == task.input_schema


class Aliased(BaseModel):
    by_name: int = Field(alias="byAlias")


class AliasedByItself(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)

    by_name: int = Field(alias="byAlias")


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (Aliased, {}),
        (Aliased, {"pydantic_dump_kwargs": {"by_alias": True}}),
        (AliasedByItself, {}),
        (AliasedByItself, {"pydantic_dump_kwargs": {"by_alias": False}}),
        (Aliased, {"autoretry_for": (OSError,), "pydantic_dump_kwargs": {"by_alias": True}}),
    ],
)
def test_a_result_is_described_as_it_is_answered(expose: Expose, model: Any, options: Any) -> None:
    def f() -> Any:
        return model(byAlias=1)

    f.__annotations__["return"] = model
    task = expose(f, pydantic=True, **options)
    assert list(task.result_schema["properties"]) == list(task.task())


def test_only_what_is_exposed(app: Celery) -> None:
    app.task(name="open", shared=False, exposed=True)(nothing)
    app.task(name="truthy", shared=False, exposed="yes")(nothing)
    app.task(name="closed", shared=False)(nothing)
    catalogue = Catalogue(app)
    exposed = {task.name for task in catalogue}
    assert {"open", "truthy", "closed"} & exposed == {"open"}
    for name in [*app.tasks, "nothing"]:
        if name not in exposed:
            with pytest.raises(Problem) as refused:
                catalogue.get(name)
            assert (refused.value.status_code, refused.value.code) == (404, "unknown-task")


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_the_queue_is_where_celery_would_send_it(app: Celery) -> None:
    app.conf.task_routes = {"routed": {"queue": "away"}}
    app.task(name="routed", shared=False, exposed=True)(nothing)
    app.task(name="own", shared=False, exposed=True, queue="mine")(nothing)
    app.task(name="plain", shared=False, exposed=True)(nothing)
    queues = {task.name: task.queue for task in Catalogue(app) if "." not in task.name}
    assert queues == {"own": "mine", "plain": "celery", "routed": "away"}


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_a_queue_that_is_not_there(app: Celery) -> None:
    app.conf.task_create_missing_queues = False
    app.task(name="lost", shared=False, exposed=True, queue="nowhere")(nothing)
    with pytest.raises(ImproperlyConfigured, match=r"'nowhere' missing.* the task lost goes there"):
        Catalogue(app)


def test_a_router_that_needs_arguments(app: Celery) -> None:
    app.conf.task_routes = lambda name, args, kwargs, options, task=None, **_: {"queue": args[0]}
    app.task(name="plain", shared=False, exposed=True)(nothing)
    assert Catalogue(app).get("plain").queue == "celery"
