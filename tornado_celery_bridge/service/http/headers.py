"""Header fields that an endpoint's ``answer`` may take, each a class of its own."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from tornado.httputil import HTTPHeaders


class HeaderFields:
    """One or several header fields of a request that belong together."""

    #: Their names, each with what the OpenAPI document says of it.
    PARAMETERS: ClassVar[Mapping[str, Mapping[str, Any]]]
    #: Fields that the answers have because of them.
    ANSWERED: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of_headers(cls, headers: HTTPHeaders) -> Self:
        """
        Return those of a request: without more ado the text of each, in the order of ``PARAMETERS``.

        Raises:
            Problem: 400, one is malformed.
        """
        return cls(*map(headers.get, cls.PARAMETERS))

    def answered(self) -> Mapping[str, str]:
        """Return what to add to the answer's header."""
        return {}
