"""What the tests of each transport consume with."""

from typing import Any

from kombu import Connection, Consumer, Queue


class Consuming:
    """A consumer, and what it was given."""

    def __init__(
        self,
        connection: Connection,
        *queues: str | Queue,
        prefetch: int = 10,
        no_ack: bool = False,
        channel: Any = None,
    ) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.channel = channel or connection.channel()
        self.consumer = Consumer(
            self.channel,
            [Queue(queue) if isinstance(queue, str) else queue for queue in queues],
            callbacks=[lambda body, message: self.messages.append(message)],
            prefetch_count=prefetch,
            no_ack=no_ack,
        )
        self.consumer.consume()

    @property
    def numbers(self) -> list[int]:
        """The numbers of all that came."""
        return [message.payload["n"] for message in self.messages]
