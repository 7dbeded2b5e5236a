"""
Texts of messages, made from a template.

Of all messages of one task to one queue nearly everything is the same. So Celery and kombu make one of them, with
marks where messages differ, and this is a template: of the next messages only what differs is made. It is filled with
what its marks stand for as it is made, and used only if kombu's text comes out again. tests/bridge/test_publish.py
compares the texts with those of ``apply_async``.
"""

import base64
import json
import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NamedTuple, Self

from kombu import serialization
from kombu.utils.json import dumps
from kombu.utils.uuid import uuid

#: In the message that is a template: the task's id, what is shown of its arguments, and the name of a further header.
ID, ARGS, KWARGS, HEADER = (f"{name}-{uuid()}" for name in ("id", "args", "kwargs", "header"))
#: The further headers, as JSON, in that message.
_HEADERS = f", {quoted(HEADER)}: 0"


class Captured:
    """
    Takes, in the place of kombu's batch and of Celery's event dispatcher, what is published.

    Args:
        channel: Whose messages they are.
    """

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        #: Redis commands.
        self.commands: list[tuple[Any, ...]] = []
        #: The fields of the event ``task-sent``; None: none is sent.
        self.event: dict[str, Any] | None = None

    def publish(self, first: Any, message: Any, *_: Any, **kwargs: Any) -> None:
        """Take a message, as kombu's batch does; or an event, as Celery's dispatcher does."""
        if first == "task-sent":
            self.event = message
        else:
            self.channel.basic_publish(message, _publish_batch=self, **kwargs)

    def add(self, *command: Any) -> None:
        """Take a command that the channel makes of a message."""
        self.commands.append(command)


class Template(NamedTuple):
    """What is the same in all messages of a kind, that go to one list in Redis."""

    #: The list.
    key: str
    #: The parts between the holes, and the names of the holes.
    parts: tuple[str, ...]
    holes: tuple[str, ...]
    #: The third part of the body: what comes after the task.
    embed: Mapping[str, Any]
    #: The names of the headers that each message has.
    headers: frozenset[str]
    #: The fields of the event, without what differs; None: none is sent.
    event: Mapping[str, Any] | None

    @classmethod
    def of(cls, captured: Captured, embed: Mapping[str, Any]) -> Self | None:
        """
        Return the template that a message is; None if it can't be one.

        Args:
            captured: What was published: a message of the task `ID` with no arguments, shown as `ARGS` and `KWARGS`,
                and with the header `HEADER`, which is 0.
            embed: The third part of its body.
        """
        match captured.commands:
            case [("lpush", key, str() as text)]:
                message = json.loads(text)
            case _:
                return None
        tag, body = message["properties"]["delivery_tag"], message["body"]
        marks = {quoted(ID): "id", quoted(ARGS): "args", quoted(KWARGS): "kwargs", quoted(tag): "tag"}
        marks |= {quoted(body): "body", _HEADERS: "headers"}
        found = re.split(f"({'|'.join(map(re.escape, marks))})", text)
        made = cls(
            key=key,
            parts=tuple(found[::2]),
            holes=tuple(marks[mark] for mark in found[1::2]),
            embed=embed,
            headers=frozenset(message["headers"]) - {HEADER},
            event=captured.event,
        )
        filled = made.text(ID, ((), {}), ARGS, KWARGS, {HEADER: 0}, tag)
        return made if filled == text and {*made.holes} == {*marks.values()} else None

    def text(
        self,
        task_id: str,
        given: tuple[Any, Any],
        argsrepr: str,
        kwargsrepr: str,
        headers: Mapping[str, Any],
        tag: str,
    ) -> str:
        """
        Return a message's text.

        Args:
            task_id: The task's id.
            given: Its positional and its named arguments.
            argsrepr: What is shown of the first.
            kwargsrepr: What is shown of the second.
            headers: Further headers, as the channel makes them ready; none of :attr:`headers`.
            tag: The delivery tag.

        Raises:
            EncodeError: JSON can't hold the arguments.
        """
        _, _, body = serialization.dumps((*given, self.embed), serializer="json")
        fill = {
            "id": quoted(task_id),
            "args": quoted(argsrepr),
            "kwargs": quoted(kwargsrepr),
            "headers": f", {dumps(headers)[1:-1]}" if headers else "",
            "tag": quoted(tag),
            "body": f'"{base64.b64encode(body.encode()).decode()}"',
        }
        made = [""] * (2 * len(self.holes) + 1)
        made[::2] = self.parts
        made[1::2] = [fill[hole] for hole in self.holes]
        return "".join(made)

    def sent_event(self, task_id: str, argsrepr: str, kwargsrepr: str) -> dict[str, Any]:
        """Return the fields of a message's event."""
        differs = {ID: task_id, ARGS: argsrepr, KWARGS: kwargsrepr}
        event = self.event or {}
        return {name: differs.get(value, value) if isinstance(value, str) else value for name, value in event.items()}
