"""What all transports share: the outcomes of publishing, batches, due times, URLs."""

import socket
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError

from tornado_celery_bridge.transports.core import (
    BrokerUrl,
    NotSent,
    PublishBatch,
    SentInDoubt,
    drop,
    due_time,
    hide_secrets,
    outcome_of,
)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "outcome", "says"),
    [
        (NotSent("no broker"), NotSent, "no broker"),
        (ConnectionRefusedError("port 1"), NotSent, "port 1"),
        (caused(OperationalError("kombu's"), socket.gaierror("no such host")), NotSent, "no such host"),
        (caused(OperationalError("kombu's"), FileNotFoundError("a socket's file")), NotSent, "a socket's file"),
        (SentInDoubt("no answer"), SentInDoubt, "no answer"),
        (caused(OperationalError("kombu's"), ConnectionResetError("reset")), SentInDoubt, "kombu's"),
        (ValueError("whatever"), SentInDoubt, "whatever"),
    ],
)
def test_an_exception_says_what_became_of_the_message(error: Exception, outcome: type[Exception], says: str) -> None:
    made = outcome_of(error)
    assert type(made) is outcome
    assert str(made) == says
    assert made.__cause__ is error


def test_a_batch_waits_once_for_so_many() -> None:
    sent: list[Any] = []
    confirmed: list[int] = []
    batch = PublishBatch("channel", 2, lambda message, **_: sent.append(message), lambda: confirmed.append(len(sent)))
    for number in range(3):
        batch.publish(number, exchange="")
    batch.flush()
    batch.close()
    assert sent == [0, 1, 2]
    assert confirmed == [2, 3]


def test_a_dropped_connection_is_closed_and_changes_no_other_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[float | None] = []
    monkeypatch.setattr(socket, "setdefaulttimeout", changes.append)
    connection: Any = Connection("memory://")
    channels = [connection.channel(), connection.default_channel]
    drop(connection)
    assert [channel.closed for channel in channels] == [True, True]
    assert not connection.connected
    assert changes == []


@pytest.mark.parametrize("eta", [None, "", "soon", 5])
def test_a_message_without_a_time_is_due_now(eta: Any) -> None:
    assert due_time({"headers": {"eta": eta}}) is None


def test_when_a_message_is_due() -> None:
    due = datetime(2030, 1, 2, 3, tzinfo=UTC)
    for zone in (UTC, timezone(timedelta(hours=5))):
        assert due_time({"headers": {"eta": due.astimezone(zone).isoformat()}}) == due.timestamp()
    assert due_time({"headers": {"eta": due.replace(tzinfo=None).isoformat()}}) == due.timestamp()


def test_the_parts_of_a_url() -> None:
    url = "activemq+ssl://me:p%40s%2Fs@h1:1,h2/my%20app?a=b&c=%40"
    assert BrokerUrl.of(url) == BrokerUrl("activemq+ssl", "me", "p@s/s", "h1:1,h2", "my app", {"a": "b", "c": "@"})
    assert BrokerUrl.of("kafka://") == BrokerUrl("kafka", "", "", "", "", {})


def test_the_url_of_a_connection_of_parts() -> None:
    client = Connection(hostname="h", userid="me", password="p", port=3, virtual_host="/app", transport="memory")
    assert BrokerUrl.of_client(client, "kafka") == BrokerUrl("kafka", "me", "p", "h:3", "app", {})
    assert hide_secrets("amqp://me:p@h:3/app", "**") == "amqp://me:**@h:3/app"
