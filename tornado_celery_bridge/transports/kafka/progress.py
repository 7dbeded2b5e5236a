"""
Which messages of a partition are done, in Kafka's own terms.

Kafka keeps one number for each partition and consumer group: all below it is done. So when a task takes an hour and its
worker is killed, all that was done after the task began would be done again. But Kafka also keeps a text beside the
number, of up to 4 kB. Here it says which offsets above the number are done, as ranges counted from it: ``1-40,42``.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Mapping

#: Characters of the text: brokers refuse a commit with more than 4,096 bytes.
MAX_TEXT = 3_500


class Ranges:
    """A set of offsets, small where they are next to each other."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __contains__(self, offset: int) -> bool:
        place = bisect_right(self._firsts, offset) - 1
        return place >= 0 and offset <= self._lasts[place]

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in zip(self._firsts, self._lasts, strict=True))

    def add(self, first: int, last: int | None = None) -> None:
        """Add *first*, or all from *first* to *last*."""
        last = first if last is None else last
        begin, end = bisect_left(self._lasts, first - 1), bisect_right(self._firsts, last + 1)
        if begin < end:
            first, last = min(first, self._firsts[begin]), max(last, self._lasts[end - 1])
        self._firsts[begin:end], self._lasts[begin:end] = [first], [last]

    def update(self, other: "Ranges") -> None:
        """Add all of *other*."""
        for first, last in zip(other._firsts, other._lasts, strict=True):
            self.add(first, last)

    def forget_below(self, offset: int) -> None:
        """Remove the ranges that are wholly below *offset*."""
        place = bisect_left(self._lasts, offset)
        del self._firsts[:place], self._lasts[:place]

    def encode(self, base: int) -> str:
        """Return what is above *base* as text; the highest are left out if it gets too long."""
        words: list[str] = []
        length = 0
        for first, last in zip(self._firsts, self._lasts, strict=True):
            word = f"{first - base}-{last - base}" if last > first else f"{first - base}"
            length += len(word) + 1
            if length > MAX_TEXT:
                break
            words.append(word)
        return ",".join(words)

    @classmethod
    def decode(cls, base: int, text: str | None) -> "Ranges":
        """Return what :meth:`encode` was called on; nothing for a text that somebody else wrote."""
        made = cls()
        try:
            for word in (text or "").split(",") if text else ():
                first, _, last = word.partition("-")
                made.add(base + int(first), base + int(last or first))
        except ValueError:
            return cls()
        return made


class PartitionProgress:
    """
    Which messages of one partition were read, are in somebody's hands, and are done.

    Args:
        base: The first offset that is not known to be done; None: where reading begins.
        done: Offsets above it that are done.
        flying: What is in somebody's hands already, from before the partition left and came back.
    """

    def __init__(
        self, base: int | None = None, done: Ranges | None = None, flying: Mapping[int, int] | None = None
    ) -> None:
        self._next = base
        self.done = done or Ranges()
        #: In ascending order, as they are read: the first one is the least.
        self._open: OrderedDict[int, None] = OrderedDict()
        #: The time of each message in hands, by its offset: a broker that lost its data has another message there.
        self.flying = dict(flying or {})
        #: The `base` that Kafka has last acknowledged.
        self.told = base

    def is_past(self, offset: int) -> bool:
        """Return whether reading has gone beyond *offset*, which Kafka does not give twice."""
        return self._next is not None and offset < self._next

    def read(self, offset: int, when: int) -> bool:
        """Note that the message at *offset*, of that time, came; return whether somebody is to have it."""
        self._next = offset + 1
        if offset in self.done:
            return False
        self._open[offset] = None
        return self.flying.get(offset) != when

    def finish(self, offset: int, when: int) -> bool:
        """Note that the message at *offset*, of that time, is done; return whether it was in anybody's hands."""
        if self.flying.get(offset) != when:
            return False
        del self.flying[offset]
        self._open.pop(offset, None)
        self.done.add(offset)
        return True

    @property
    def base(self) -> int | None:
        """The least offset that is not done; None if none was read and none is known."""
        return next(iter(self._open), self._next)

    def to_commit(self) -> tuple[int, str] | None:
        """Return what to tell Kafka: the least offset that is not done, and the text."""
        base = self.base
        if base is None:
            return None
        self.done.forget_below(base)
        return base, self.done.encode(base)
