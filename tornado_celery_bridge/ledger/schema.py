"""
Which layout of the ledger's keys this version has, and what is said where another one is met.

The ledger's Redis has the number in the key ``schema``. Each command looks at it first, in the step in which it does
its work, and does nothing if the number is another one. So two versions with different schemas never change one ledger,
whichever starts first, and also while one of them runs already. ``tcb upgrade`` (:mod:`.upgrade`) brings the keys from
one schema to the next.
"""

import re

from redis.exceptions import ResponseError

from tornado_celery_bridge._version import __version__

#: Rises with a release that has other keys, or other values in them, than the release before could read or write. Such
#: a release has a step in :data:`.upgrade.STEPS`.
SCHEMA = 1

_MARK = "another-ledger-schema"
_REFUSED = re.compile(rf"{_MARK} (\S+)")

#: Lua that a command runs before its own. An empty Redis gets the number of the first who comes.
GUARD = f"""\
do
  local schema = redis.call('GET', prefix .. 'schema')
  if not schema then
    redis.call('SET', prefix .. 'schema', '{SCHEMA}')
  elseif schema ~= '{SCHEMA}' then
    return redis.error_reply('{_MARK} ' .. schema)
  end
end
"""


class AnotherSchema(ResponseError):
    """The ledger has another schema than this version: nothing was changed. The message says what to do."""

    def __init__(self, found: str) -> None:
        super().__init__(told(found))


def told(found: str) -> str:
    """Return what to do about a ledger whose schema is *found*, which is not :data:`SCHEMA`."""
    before, _, after = found.partition(">")
    me = f"tornado-celery-bridge {__version__}"
    if after:
        return (
            f"the ledger is being upgraded from schema {before} to {after}: wait until `tcb upgrade` has ended. If it "
            "was interrupted, run it again"
        )
    if found.isdigit() and int(found) < SCHEMA:
        return (
            f"the ledger has schema {found}, and {me} has schema {SCHEMA}: stop all processes of the older version, "
            "then run `tcb upgrade`"
        )
    return (
        f"the ledger has schema {found}, and {me} has schema {SCHEMA}: a newer version has upgraded it. Install that "
        "version here, or give this one a Redis database of its own"
    )


def recognized(exc: Exception) -> Exception:
    """Return :exc:`AnotherSchema` for the error of a command that has met another schema; else the error itself."""
    found = _REFUSED.search(str(exc)) if isinstance(exc, ResponseError) else None
    return AnotherSchema(found[1]) if found else exc


def compare(found: bytes | str | None) -> None:
    """
    Look at what the key ``schema`` has.

    Raises:
        AnotherSchema: It is not this version's.
    """
    text = found.decode() if isinstance(found, bytes) else found
    if text is not None and text != str(SCHEMA):
        raise AnotherSchema(text)
