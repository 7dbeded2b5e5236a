"""What narrows a list of jobs down: one filter, for lists, counts and operations on many jobs."""

import dataclasses
import json
import re
import string
from dataclasses import dataclass

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.ledger.connection import ms

#: Words, and what is in quotes.
_WORDS = re.compile(r'"([^"]+)"|([^\s"]+)')
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """
    Which jobs are meant: those that fit all of it. An empty filter fits every job.

    ``lua/parts/select.lua`` is the one place that evaluates it. The first members have an index in the ledger. For the
    others each job is looked at, of those that the first members leave.

    .. versionadded:: 0.1.0
    """

    #: Only this owner's jobs; None for everybody's.
    owner: str | None = None
    #: Only jobs of this task.
    task: str | None = None
    #: Only jobs in this state. STARTED includes the states of tasks' own.
    state: str | None = None
    #: Only jobs that have all of these tags.
    tags: tuple[str, ...] = ()
    #: Only jobs that were given up, as their workers were lost again and again.
    dead: bool = False
    #: Only jobs of this group of failures that have not been tried again.
    failure: str | None = None
    #: Only jobs that were accepted at this time or later, in seconds since 1970.
    since: float | None = None
    #: Only jobs that were accepted before this time, in seconds since 1970.
    until: float | None = None
    #: Only jobs of this queue.
    queue: str | None = None
    #: Only jobs whose last attempt was begun by the worker of this node name.
    worker: str | None = None
    #: Only jobs whose last attempt has run for so many seconds, or has taken them.
    min_duration: float | None = None
    #: Only jobs that have waited for so many seconds, from when they were due to their last attempt.
    min_wait: float | None = None
    #: Only jobs that have begun so often.
    min_attempt: int | None = None
    #: Only jobs that have each of these words in their input, result, error, tags or metadata: in the first 16 KiB of
    #: each, in any case of ASCII's letters. Words in quotes are one.
    q: str | None = None

    @property
    def words(self) -> list[str]:
        """What is searched for, as JSON has it, in lower case (of ASCII, as Lua's)."""
        found = [quoted or plain for quoted, plain in _WORDS.findall(self.q or "")]
        return [dumps(word)[1:-1].translate(_LOWER) for word in found]

    @property
    def indexes(self) -> list[str]:
        """The names of the indexes that each of its jobs is in."""
        named = {"owner": self.owner or None, "task": self.task, "state": self.state, "failure": self.failure}
        found = [f"{name}:{value}" for name, value in named.items() if value is not None]
        return [*found, *(f"tag:{tag}" for tag in self.tags), *["dead"] * self.dead] or ["all"]

    def for_lua(self) -> str:
        """Return it as the commands take it: JSON, with times in ms as texts."""
        looked_at = {
            "queue": self.queue,
            "worker": self.worker,
            "min_run": None if self.min_duration is None else ms(self.min_duration),
            "min_wait": None if self.min_wait is None else ms(self.min_wait),
            "min_attempt": self.min_attempt,
        }
        where = {
            "indexes": self.indexes,
            "oldest": "-inf" if self.since is None else str(ms(self.since)),
            "newest": "+inf" if self.until is None else f"({ms(self.until)}",
            "state": self.state,
        }
        given = {name: value for name, value in {**where, **looked_at}.items() if value is not None}
        if words := self.words:
            given["words"] = words
        return dumps({**given, "looks_inside": any(value is not None for value in looked_at.values())})

    def encode(self) -> str:
        """Return it as it is stored: the members that narrow anything, as JSON."""
        given = dataclasses.asdict(self).items()
        return dumps({name: value for name, value in given if value is not None and value is not False and value != ()})

    @classmethod
    def decode(cls, stored: str | bytes) -> "Filter":
        """Return a filter that was stored."""
        given = json.loads(stored)
        return cls(**{**given, "tags": tuple(given.get("tags", ()))})


#: The filter that fits every job.
EVERY = Filter()
