"""
How an app spells its settings, so that a line can be given that its owner can paste.

Celery has new names (``task_acks_late``) and old ones (``CELERY_ACKS_LATE``), which it refuses to mix, and a namespace
puts a prefix before the new ones (``CELERY_TASK_ACKS_LATE``, as most Django projects have it). They stand in a module
or class, in a dictionary, or in calls of ``app.conf.update``.
"""

import inspect
import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from celery import Celery
from celery.app import utils

#: The new name of each of Celery's settings, and its old one.
_OLD_NAMES: Mapping[str, str] = utils._TO_OLD_KEY  # type: ignore[attr-defined]


class Spelling(NamedTuple):
    """How one app spells its settings."""

    form: Literal["assignments", "dictionary", "update"]
    #: Where they are, for people.
    where: str
    #: Of a namespace, as in ``CELERY_``; empty: none.
    prefix: str
    is_old: bool

    @classmethod
    def of(cls, app: Celery) -> "Spelling":
        """
        Return how *app* spells its settings. This configures the app.

        Raises:
            Exception: Whatever the app's settings raise.
        """
        conf: Any = app.conf
        namespace: str = app.namespace or ""  # type: ignore[attr-defined]
        is_old = bool(conf.deprecated_settings) and not namespace and _OLD_NAMES["task_acks_late"] in conf.maps[-1]
        source = app._config_source  # type: ignore[attr-defined]
        if source is None and (loaded := getattr(app.loader, "configured", False)) and loaded is True:
            source = os.environ.get("CELERY_CONFIG_MODULE") or "celeryconfig"
        prefix = f"{namespace.rstrip('_')}_" if namespace else ""
        if source is None:
            return cls("update", "beside the app", prefix, is_old)
        if isinstance(source, Mapping):
            return cls("dictionary", "in the dictionary of the app's settings", prefix, is_old)
        return cls("assignments", f"in {_name(source)}", prefix, is_old)

    def name(self, setting: str) -> str:
        """Return the name of a setting, which is given by its new name."""
        if self.is_old:
            return _OLD_NAMES.get(setting, setting)
        name = self.prefix + setting
        return name.upper() if self.prefix.isupper() else name

    def line(self, **settings: Any) -> str:
        """Return the line of Python that gives *settings* these values; a value is written as its ``repr``."""
        named = {self.name(setting): repr(value) for setting, value in settings.items()}
        if self.form == "assignments":
            return "; ".join(f"{name} = {value}" for name, value in named.items())
        if self.form == "dictionary":
            return ", ".join(f"{name!r}: {value}" for name, value in named.items()) + ","
        return f"app.conf.update({', '.join(f'{name}={value}' for name, value in named.items())})"

    def block(self, **settings: Any) -> list[str]:
        """Return the lines of Python that give *settings* these values, each on its own."""
        named = {self.name(setting): repr(value) for setting, value in settings.items()}
        if self.form == "update":
            return ["app.conf.update(", *(f"    {name}={value}," for name, value in named.items()), ")"]
        return [self.line(**{setting: value}) for setting, value in settings.items()]


def _name(source: Any) -> str:
    """Return what people call the module or class that has an app's settings."""
    if source == "django.conf:settings":
        return os.environ.get("DJANGO_SETTINGS_MODULE") or "Django's settings"
    if isinstance(source, str):
        return source.replace(":", ".")
    if inspect.isclass(source):
        return f"{source.__module__}.{source.__qualname__}"
    if inspect.ismodule(source):
        return source.__name__
    return f"{type(source).__module__}.{type(source).__qualname__}"
