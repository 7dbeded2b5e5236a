"""``install(app)`` beside apps that are configured in every order, and whose backend was used before."""

import os
import subprocess
import sys

import pytest
from celery import Celery

from tornado_celery_bridge.ledger.checks import is_installed
from tornado_celery_bridge.worker import install

REFUSED = "redis://127.0.0.1:1/0"


def make_app(backend: str | None = REFUSED) -> Celery:
    return Celery("x", broker=REFUSED, backend=backend, set_as_current=False)


def test_before_the_app_is_configured() -> None:
    app = make_app()
    install(app)
    assert not app.configured  # type: ignore[attr-defined]
    assert is_installed(app)


def test_with_the_backend_in_the_environment_and_nothing_read_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in many files of docker compose: Celery then makes the backend without reading the app's settings."""
    monkeypatch.setenv("CELERY_RESULT_BACKEND", REFUSED)
    app = make_app(None)
    install(app)
    assert is_installed(app)
    assert app.conf.task_acks_late is False  # which configures it
    assert is_installed(app)


def test_after_the_backend_was_used() -> None:
    app = make_app()
    assert not is_installed(app)  # makes the backend
    install(app)
    assert is_installed(app)


def test_a_settings_module_with_backends_of_its_own() -> None:
    code = f"""
from celery import Celery
from tornado_celery_bridge.ledger.checks import is_installed
from tornado_celery_bridge.worker import install
app = Celery("x")
mine = {{"mine": "celery.backends.rpc:RPCBackend"}}
app.config_from_object({{"result_backend": {REFUSED!r}, "override_backends": mine}})
install(app)
print(is_installed(app))
"""
    environment = os.environ | {"CELERY_RESULT_BACKEND": REFUSED}
    said = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert said == "True\n"
