"""The Lua commands of a room, for tests that change them."""

from types import ModuleType
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from tornado_celery_bridge.base.lua import Command

#: What keys of Celery's and kombu's begin with, and of the tests.
_NOT_OURS = (b"celery", b"pre.celery", b"_kombu", b"unacked", b"q", b"clock")

_CLOCK = "local time = redis.call('TIME')\n  return time[1] * 1000 + math.floor(time[2] / 1000)"


def commands_in(*modules: ModuleType) -> list[Command[Any]]:
    """Return the commands that modules declare."""
    return [each for module in modules for each in vars(module).values() if isinstance(each, Command)]


def read_the_time_from_a_key(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Have the commands that modules declare take what the key ``clock`` has for the time, in ms."""
    commands = commands_in(*modules)
    assert any(_CLOCK in command.text for command in commands)
    for command in commands:
        text = command.text.replace(_CLOCK, "return tonumber(redis.call('GET', 'clock'))")
        monkeypatch.setattr(command, "text", text)


def check_slots(client: redis.Redis) -> None:
    """Fail if the ledger has left keys that one server of a Redis Cluster would not have."""
    ours = [key for key in client.scan_iter() if not key.startswith(_NOT_OURS)]
    assert len({key_slot(key) for key in ours}) <= 1, ours
