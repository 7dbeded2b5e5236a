"""The Celery app of a deployment, found as Celery's command line finds it."""

import os
import sys
import sysconfig
import threading
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from celery import Celery
from celery.app.utils import find_app

from tornado_celery_bridge.base.settings import SettingsError, follow_command_line


def load_celery_app(name: str) -> Celery:
    """
    Return the Celery app that ``celery -A name`` finds, configured and with its tasks.

    The environment counts as it does for ``celery``: ``BROKER_URL`` comes before ``CELERY_BROKER_URL``, and both before
    the app's own setting.

    Raises:
        SettingsError: There is none, or it can't be imported. The message says why in a sentence.
    """
    follow_command_line(os.environ)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = find_app(name)
    except AttributeError as exc:
        raise SettingsError(f"CELERY_APP={name}: no Celery app was found there: {_why_not_found(name, exc)}") from exc
    except (Exception, SystemExit) as exc:  # whatever a module raises while it is imported
        hint = "" if not _is_missing(name, exc) else "; name your app, as in tcb -A proj.celery:app up"
        raise SettingsError(f"CELERY_APP={name}: it can't be imported: {cause(exc)}{hint}") from exc
    if not isinstance(found, Celery):
        raise SettingsError(f"CELERY_APP={name}: {_instead(name, found)}")
    try:
        found.loader.import_default_modules()
        found.finalize()
        found.conf.task_default_queue  # noqa: B018 configures it
    except (Exception, SystemExit) as exc:
        raise SettingsError(f"CELERY_APP={name}: its settings or tasks can't be read: {cause(exc)}") from exc
    return found


def moment(app: Celery, time: datetime | str) -> datetime:
    """
    Return an ``eta`` or an ``expires`` with its time zone. One that has none is of the app's (Celery's ``timezone``).

    Raises:
        ValueError: The text is not a time in ISO 8601.
    """
    found = datetime.fromisoformat(time) if isinstance(time, str) else time
    return found if found.tzinfo else found.replace(tzinfo=app.timezone)


def forget_backend(app: Any) -> None:
    """Have *app* make its result backend anew when it is next needed."""
    app._local, app._backend_cache = threading.local(), None


def cause(exc: BaseException) -> str:
    """Return why a module can't be imported, in a sentence: what was raised, and in which line of the project."""
    text = " ".join(str(exc).split())
    frames = traceback.extract_tb(exc.__traceback__)
    if isinstance(exc, KeyError) and frames and frames[-1].filename in ("<frozen os>", os.__file__):
        text = f"the environment variable {exc.args[0]} is not set"
    elif isinstance(exc, SystemExit):
        text = f"it ends the process, with status {exc.code}"
    elif not isinstance(exc, ImportError):
        text = f"{type(exc).__name__}: {text}" if text else type(exc).__name__
    own = [frame for frame in frames if not _is_installed(frame.filename) and frame.filename != __file__]
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{type(exc).__name__}: {exc.msg} ({_shown(exc.filename)}, line {exc.lineno})"
    return f"{text} ({_shown(own[-1].filename)}, line {own[-1].lineno})" if own else text


def _is_missing(name: str, exc: BaseException) -> bool:
    """Return whether there is no such module, rather than one that needs another."""
    return isinstance(exc, ModuleNotFoundError) and f"{name}.".startswith(f"{exc.name}.")


def _is_installed(path: str) -> bool:
    places = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    return path.startswith(("<frozen", *places))


def _shown(path: str) -> str:
    """Return a path as seen from here."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return path


def _why_not_found(name: str, exc: AttributeError) -> str:
    """Return why there is no app; Celery does not tell of an error within ``proj.celery``."""
    module = sys.modules.get(name.partition(":")[0])
    if hasattr(module, "__path__") and ":" not in name:
        try:
            import_module(f"{name}.celery")
        except (Exception, SystemExit) as real:
            if not (isinstance(real, ModuleNotFoundError) and real.name == f"{name}.celery"):
                return cause(real)
    frames = traceback.extract_tb(exc.__traceback__)
    if not _is_installed(frames[-1].filename):
        return cause(exc)
    return f"the module has none{_suggestion(module)}" if ":" not in name else f"{exc}{_suggestion(module)}"


def _instead(name: str, found: object) -> str:
    """Return what was found instead of a Celery app, and which name may be meant."""
    kind = type(found)
    module = sys.modules.get(name.partition(":")[0])
    extensions = getattr(found, "extensions", None)  # of Flask: where its documentation keeps the Celery app
    if (
        not (told := _suggestion(module))
        and isinstance(extensions, dict)
        and isinstance(extensions.get("celery"), Celery)
    ):
        told = '; it has one in its extensions: write `celery_app = app.extensions["celery"]` there, and name that'
    return f"that is no Celery app but a {kind.__module__}.{kind.__qualname__}{told}"


def _suggestion(module: ModuleType | None) -> str:
    if module is None:
        return ""
    names = [name for name, value in vars(module).items() if isinstance(value, Celery)]
    return f"; did you mean -A {module.__name__}:{names[0]}?" if names else ""


def check_arguments(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """
    Check that *task* takes these arguments, as its ``apply_async`` does: of a class-based task it does not.

    Raises:
        TypeError: It does not take them.
    """
    if task.typing and (header := getattr(task, "__header__", None)):
        header(*args, **kwargs)


def own_tasks(app: Celery) -> list[tuple[str, Any]]:
    """Return the tasks that are not Celery's, by name."""
    return [(name, task) for name, task in sorted(app.tasks.items()) if not name.startswith("celery.")]


def is_exposed(task: Any) -> bool:
    """Return whether a task is served over HTTP."""
    return getattr(task, "exposed", False) is True


def why_none_exposed(app: Celery) -> str:
    """Return why nothing is served over HTTP, and what to add; empty if a task is."""
    tasks = own_tasks(app)
    if not tasks:
        return "the app has no task: name the modules that have its tasks in its setting `imports`"
    if any(is_exposed(task) for _, task in tasks):
        return ""
    return f"no task is served over HTTP: to serve {tasks[0][0]}, write @app.task(exposed=True) above it"
