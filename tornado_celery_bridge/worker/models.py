"""Pydantic models of a task with ``pydantic=True``, which are also taken by the names of their fields."""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any


def taking_names(task: Any) -> Callable[..., Any]:
    """
    Return *task*'s ``run``, which takes a model of which only the names of its fields fit, and not their aliases.

    Celery returns a model by its fields' names, and takes one by their aliases. So of two tasks whose models have
    aliases, the second could not take what the first returns.
    """
    run: Callable[..., Any] = task.run
    models = _models_of(task)
    if not models:
        return run
    signature = inspect.signature(run)

    @functools.wraps(run)
    def taking(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name, model in models.items():
            if isinstance(value := bound.arguments.get(name), dict):
                bound.arguments[name] = _by_names(model, value)
        return run(*bound.args, **bound.kwargs)

    return taking


def _models_of(task: Any) -> dict[str, Any]:
    """Return the models with aliases among a task's parameters, by their names."""
    if getattr(task, "_dump_pydantic_arguments", None) is None:
        return {}
    from pydantic import BaseModel  # which such a task has imported

    try:
        hints = typing.get_type_hints(inspect.unwrap(task.run))
    except (NameError, AttributeError, TypeError):  # as Celery, which then takes what is written
        return {}
    found = {}
    for name in inspect.signature(task.run).parameters:
        hint = hints.get(name)
        kinds = [each for each in (hint, *typing.get_args(hint)) if each is not type(None)]
        model = next((each for each in kinds if inspect.isclass(each) and issubclass(each, BaseModel)), None)
        if model is not None and model.model_json_schema() != model.model_json_schema(by_alias=False):
            found[name] = model
    return found


def _by_names(model: Any, value: dict[str, Any]) -> Any:
    """Return *value*, or the model of it if only its fields' names fit."""
    try:
        model.model_validate(value)
    except Exception:  # of any validator
        try:
            return model.model_validate(value, by_alias=True, by_name=True)
        except Exception:
            return value  # of which Celery says what is wrong
    return value
