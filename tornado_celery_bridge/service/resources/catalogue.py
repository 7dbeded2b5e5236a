"""The tasks that may be run over HTTP, and what their type hints say about input and result."""

import hashlib
import inspect
import json
import logging
import typing
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import pydantic
from celery import Celery, Task
from celery.exceptions import ImproperlyConfigured, QueueNotFound
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import PydanticJsonSchemaWarning

from tornado_celery_bridge.base.app import is_exposed, own_tasks
from tornado_celery_bridge.ledger.destinations import Destination, destination
from tornado_celery_bridge.service.http.faults import Fault, escape, faults_of
from tornado_celery_bridge.service.http.json import encode
from tornado_celery_bridge.service.http.problems import Kind, Problem
from tornado_celery_bridge.transports import Priorities

_log = logging.getLogger(__name__)

UNKNOWN_TASK = Kind("unknown-task", 404, "There is no task of this name.")
INVALID_INPUT = Kind("invalid-input", 422, "The input does not fit the task.")

JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
#: Where a schema that stands alone has the schemas that it refers to.
DEFS = "#/$defs/{model}"

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def unknown_task() -> Problem:
    """Return the one answer for every task that cannot be run, whatever the reason."""
    return UNKNOWN_TASK("There is no task of this name.")


class Arguments(NamedTuple):
    """What a task is called with."""

    args: list[Any]
    kwargs: dict[str, Any]


class Catalogue:
    """
    The tasks of an app that were exposed on purpose: ``@app.task(exposed=True)``.

    Raises:
        ImproperlyConfigured: A task is to go to a queue that the app does not have.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        exposed = (task for _, task in own_tasks(app) if is_exposed(task))
        self._tasks = {task.name: ExposedTask(app, task) for task in exposed}
        self.queues = frozenset(app.amqp.queues) | {task.queue for task in self}
        self.priorities = Priorities(app)

    def __iter__(self) -> Iterator["ExposedTask"]:
        return iter(self._tasks.values())

    def get(self, name: str) -> "ExposedTask":
        """Return the task of this name. 404, the same for a task that is not exposed as for one that is not there."""
        try:
            return self._tasks[name]
        except KeyError:
            raise unknown_task() from None


class ExposedTask:
    """One task: where it runs, and what it takes and returns."""

    def __init__(self, app: Celery, task: "Task[..., Any]") -> None:
        self.task = task
        self.name = str(task.name)
        default = _default_destination(app, task)
        #: Where its jobs go unless their options, or a router that looks at arguments, say otherwise.
        self.queue, self.priority = default.queue, default.priority
        self.summary, self.description = _docstring(task)
        signature, hints = _signature(task)
        self._hints = hints
        self._parameters = list(signature.parameters.values())
        self._model = self._make_model(self._parameters)
        #: What each argument has to be that a ``*args`` takes up; None for a task without one.
        self._rest = _rest_of(self._parameters, hints)
        self._result = TypeAdapter(hints["return"])
        self._by_alias = _answers_by_alias(task, hints["return"])
        #: What each item has to be of a task that is a generator; None for any other.
        self._item = TypeAdapter(hints["yield"]) if "yield" in hints else None
        self.input_schema = {"$schema": JSON_SCHEMA, **self.make_input_schema()}
        self.result_schema = {"$schema": JSON_SCHEMA, **self.make_result_schema()}
        #: The JSON Schema of each item of a task that is a generator; None for any other.
        self.items_schema = self._item and {"$schema": JSON_SCHEMA, **_schema(self._item, "serialization")}

    def make_input_schema(self, ref_template: str = DEFS) -> dict[str, Any]:
        """Return the JSON Schema of named arguments; *ref_template* is where its ``{model}`` will be found."""
        return _schema(TypeAdapter(self._model), "validation", ref_template)

    def make_result_schema(self, ref_template: str = DEFS) -> dict[str, Any]:
        """Return the JSON Schema of what the task returns; *ref_template* is where its ``{model}`` will be found."""
        return _schema(self._result, "serialization", ref_template, by_alias=self._by_alias)

    @property
    def rest_schema(self) -> dict[str, Any] | None:
        """The JSON Schema of what a ``*args`` takes up, each; None for a task that has none."""
        if self._rest is None:
            return None
        schema = _schema(self._rest, "validation")
        return {} if "$defs" in schema else dict(schema["items"])

    @property
    def positional(self) -> list[str]:
        """The parameters that an input has by position, if it is a list."""
        return [parameter.name for parameter in self._parameters if parameter.kind in _POSITIONAL]

    def arguments(self, given: dict[str, Any] | list[Any], *, receives: bool = False) -> Arguments:
        """
        Return the arguments to call the task with. The values do not change.

        Args:
            given: The input.
            receives: Whether its first positional argument will be another's result, and so is not to be given.

        Raises:
            Problem: 422, with a pointer for everything that does not fit.
        """
        parameters, model = self._after_result if receives else (self._parameters, self._model)
        if receives and isinstance(given, dict) and (taken := self._parameters[0].name) in given:
            detail = "This is the result of the step before."
            raise INVALID_INPUT.at(f"/input/{escape(taken)}", detail)
        named, rest = (given, []) if isinstance(given, dict) else self._name(given, parameters)
        try:
            model.__pydantic_validator__.validate_json(encode(named), strict=True)
        except pydantic.ValidationError as exc:
            names = [parameter.name for parameter in parameters]
            positional = names if isinstance(given, list) else ()
            faults = faults_of(exc, named, "/input", names=names, positional=positional)
            raise INVALID_INPUT("The input does not fit the task.", faults=faults) from None
        if self._rest is not None and rest:
            self._check_rest(self._rest, rest, len(given) - len(rest))
        return self.called_with(given)

    def _check_rest(self, adapter: TypeAdapter[Any], rest: list[Any], first: int) -> None:
        """Check what a ``*args`` takes up, of which the first is at this place in the input."""
        try:
            adapter.validate_json(encode(rest), strict=True)
        except pydantic.ValidationError as exc:
            places = [str(first + place) for place in range(len(rest))]
            faults = faults_of(exc, rest, "/input", positions=places)
            raise INVALID_INPUT("The input does not fit the task.", faults=faults) from None

    def called_with(self, given: dict[str, Any] | list[Any]) -> Arguments:
        """Return what to call the task with for an input that fits."""
        if isinstance(given, list):
            return Arguments(given, {})
        leading = [parameter.name for parameter in self._parameters if parameter.kind is _POSITIONAL[0]]
        return Arguments(
            [given[name] for name in leading if name in given],
            {name: value for name, value in given.items() if name not in leading},
        )

    def unique_by(self, owner: str, given: dict[str, Any] | list[Any]) -> str:
        """Return what a job of a task that is ``unique`` is the same as another by; empty for any other task."""
        if not getattr(self.task, "unique", False):
            return ""
        named, rest = (given, []) if isinstance(given, dict) else self._name(given, self._parameters)
        text = json.dumps([self.name, owner, named, *rest], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def _after_result(self) -> tuple[list[inspect.Parameter], type[BaseModel]]:
        """The parameters, and the model of them, that another's result leaves."""
        kind = self._parameters[0].kind if self._parameters else None
        if kind not in (*_POSITIONAL, _VARIADIC[0]):
            detail = "The task takes no positional argument, and so no result of the step before."
            raise INVALID_INPUT.at("/task", detail)
        parameters = self._parameters if kind is _VARIADIC[0] else self._parameters[1:]
        return parameters, self._make_model(parameters)

    def _name(self, given: list[Any], parameters: Sequence[inspect.Parameter]) -> tuple[dict[str, Any], list[Any]]:
        """Return positional arguments under their parameters' names, and those that a ``*args`` takes up."""
        names = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
        if len(given) > len(names) and self._rest is None:
            takes = f"The task takes at most {len(names)} positional arguments."
            raise INVALID_INPUT(takes, faults=[Fault(f"/input/{len(names)}", takes)])
        return dict(zip(names, given, strict=False)), given[len(names) :]

    def _make_model(self, parameters: Sequence[inspect.Parameter]) -> type[BaseModel]:
        """Return the model of named arguments. Its fields have names of ours, as a parameter may be called anything."""
        more = next((self._hints[each.name] for each in parameters if each.kind is _VARIADIC[1]), None)
        config = ConfigDict(extra="forbid" if more is None else "allow", strict=True, allow_inf_nan=False)
        extra = {} if more is None else {"__pydantic_extra__": dict[str, more]}  # type: ignore[valid-type]
        base: Any = type(
            "Input", (BaseModel,), {"__annotations__": extra, "model_config": config, "__module__": __name__}
        )
        fields: dict[str, Any] = {
            f"p{number}": (self._hints[parameter.name], Field(_default(parameter), alias=parameter.name))
            for number, parameter in enumerate(parameters)
            if parameter.kind not in _VARIADIC
        }
        made: type[BaseModel] = pydantic.create_model("Input", __base__=base, **fields)
        return made


def _default_destination(app: Celery, task: "Task[..., Any]") -> Destination:
    """Return where Celery sends the task when no options and no arguments say otherwise."""
    try:
        return destination(app, str(task.name), (), {}, {})
    except QueueNotFound as exc:
        raise ImproperlyConfigured(
            f"{exc}, and the task {task.name} goes there: add the queue, or change the task's queue or its route"
        ) from exc
    except Exception as exc:  # a router of the app's own, which needs arguments
        _log.info("%s: its queue depends on its arguments: %r", task.name, exc)
        return Destination(app.conf.task_default_queue, {})


def _docstring(task: "Task[..., Any]") -> tuple[str, str]:
    """Return the first paragraph of what the task says about itself, and all of it."""
    text = inspect.getdoc(inspect.unwrap(task.run)) or ""
    return " ".join(text.split("\n\n")[0].split()), text


def _signature(task: "Task[..., Any]") -> tuple[inspect.Signature, dict[str, Any]]:
    """
    Return what the task takes (of a bound one, without itself) and its evaluated type hints.

    That of what it returns is ``return``. A task that is a generator has one of its items, too: ``yield``.
    """
    signature = inspect.signature(task.run)
    function = inspect.unwrap(task.run)
    module = getattr(function, "__globals__", {})
    annotations = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
    annotations["return"] = signature.return_annotation
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        annotations["yield"], annotations["return"] = _yielded(task, annotations["return"], module)
    return signature, {name: _hint(task, name, given, module) for name, given in annotations.items()}


def _yielded(task: "Task[..., Any]", annotation: Any, module: dict[str, Any]) -> tuple[Any, Any]:
    """Return what a generator yields and returns, by its annotation: ``Iterator[int]``, ``AsyncIterator[int]``…"""
    if annotation is inspect.Parameter.empty:
        return Any, Any
    try:
        hint = typing.get_type_hints(SimpleNamespace(__annotations__={"return": annotation}), module, None, True)
        items, *more = typing.get_args(hint["return"]) or [Any]
    except Exception as exc:  # what it names is not there
        _log.warning("%s: the type hint of return says nothing to pydantic: %s", task.name, exc)
        return Any, Any
    return items, more[1] if len(more) == 2 else None


def _hint(task: "Task[..., Any]", name: str, annotation: Any, module: dict[str, Any]) -> Any:
    """Return a type hint that pydantic can check; Any for one that it can't, as the task runs all the same."""
    if annotation is inspect.Parameter.empty:
        return Any
    holder = SimpleNamespace(__annotations__={name: annotation})
    try:
        hint = typing.get_type_hints(holder, globalns=module, include_extras=True)[name]
        _schema(TypeAdapter(hint), "validation")
    except Exception as exc:
        _log.warning("%s: the type hint of %s says nothing to pydantic: %s", task.name, name, exc)
        return Any
    return hint


def _default(parameter: inspect.Parameter) -> Any:
    return ... if parameter.default is inspect.Parameter.empty else parameter.default


def _rest_of(parameters: Sequence[inspect.Parameter], hints: dict[str, Any]) -> TypeAdapter[Any] | None:
    for parameter in parameters:
        if parameter.kind is _VARIADIC[0]:
            hint = hints[parameter.name]
            return TypeAdapter(list[hint])  # type: ignore[valid-type]
    return None


def _answers_by_alias(task: "Task[..., Any]", hint: Any) -> bool:
    """
    Return whether a task answers by the aliases of its model's fields, and not by their names.

    Celery's ``pydantic=True`` dumps the model by ``pydantic_dump_kwargs``, which only its wrapper knows; pydantic's own
    default is by name, unless the model's configuration has another.
    """
    told: Any = None
    function: Any = task.run
    while told is None and function is not None:
        if inspect.isfunction(function):
            told = inspect.getclosurevars(function).nonlocals.get("dump_kwargs", {}).get("by_alias")
        function = getattr(function, "__wrapped__", None)
    configured = getattr(hint, "model_config", {}).get("serialize_by_alias")
    return bool(configured if told is None else told)


def _schema(
    adapter: TypeAdapter[Any],
    mode: Literal["validation", "serialization"],
    ref_template: str = DEFS,
    *,
    by_alias: bool = True,
) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # a default that JSON does not have
        return adapter.json_schema(mode=mode, ref_template=ref_template, by_alias=by_alias)
