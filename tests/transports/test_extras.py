"""A broker's client is an extra: without it, the error names the extra to install."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("extra", "client"), [("kafka", "confluent_kafka"), ("activemq", "stomp")])
def test_a_missing_client_is_an_error_that_names_the_extra(extra: str, client: str) -> None:
    code = f"""
import sys
sys.modules[{client!r}] = None  # as if it were not installed
from tornado_celery_bridge.transports import register
register("{extra}://127.0.0.1/")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: {extra}:// needs")
    assert last.endswith(f"pip install 'tornado-celery-bridge[{extra}]'")
