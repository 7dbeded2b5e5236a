"""Times that a request may give: all bodies and queries read them here, so that none is too early or late to show."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator

#: The first and the last year that a request may name. Near the calendar's ends a time has no UTC, or no next second.
FIRST, LAST = 1970, 9000


def _check_year(moment: datetime) -> datetime:
    if not FIRST <= moment.year <= LAST:
        raise ValueError(f"this should be between the years {FIRST} and {LAST}")
    return moment


#: A time in RFC 3339, with its zone.
Moment = Annotated[AwareDatetime, AfterValidator(_check_year)]


def _of_text(given: Any) -> Any:
    return datetime.fromisoformat(given) if isinstance(given, str) else given


#: The same in a query. pydantic alone would take the number 2026 for a time in 1970.
MomentInQuery = Annotated[Moment, BeforeValidator(_of_text)]
