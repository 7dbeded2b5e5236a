"""
Endpoints: one class declares all there is to say of one route.

::

    class CancelJob(Endpoint):
        \"\"\"Cancel a job.\"\"\"

        route = post("/v1/jobs/{id}/cancel", scope="cancel", tag="jobs")
        answers: ClassVar = {200: Answer("The job, which is done."), 202: Answer("The job, which has been told.")}
        problems: ClassVar = (UNKNOWN_JOB, EXPIRED_JOB)

        async def answer(self, id: JobId, body: Cancellation = Cancellation()) -> documents.Job:
            ...

What ``answer`` takes is what the request may have: the path's parameters by name; ``body``, a model, and not needed
if it has a default; ``query``, a model; and header fields by their types. What it returns is what the request is
answered, with the first status of ``answers`` unless it sets another. Routing, checks, scopes, the OpenAPI document,
the docs' tables and the metrics' names follow from the class; its docstring is the route's summary and description.
"""

import asyncio
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, ClassVar, get_args, get_origin

from pydantic import BaseModel
from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher, PathMatches, Rule

from tornado_celery_bridge.ledger import MAX_INLINE
from tornado_celery_bridge.service.http.body import MAX_NODES, Nothing, parse
from tornado_celery_bridge.service.http.conditions import IfNoneMatch
from tornado_celery_bridge.service.http.handler import Handler
from tornado_celery_bridge.service.http.headers import HeaderFields
from tornado_celery_bridge.service.http.problems import METHOD_NOT_ALLOWED, NOT_FOUND, Kind
from tornado_celery_bridge.service.http.query import Query, parse_query


@dataclass(frozen=True)
class Route:
    """
    A method of a path.

    Args:
        methods: One, as a rule. The OpenAPI document shows the first.
        path: With its parameters in braces: ``/v1/jobs/{id}``. ``{name...}`` is all the rest of a path.
        scope: The scope that a key needs; None: any key will do.
        tag: Which part of the OpenAPI document it is in; empty for a route that is in none.
        is_public: Whether it answers without a key.
    """

    methods: tuple[str, ...]
    path: str
    _: KW_ONLY
    scope: str | None = None
    tag: str = ""
    is_public: bool = False

    @property
    def name(self) -> str:
        """The path as metrics have it, with ``*`` for each parameter."""
        return re.sub(r"{.+?}", "*", self.path)

    @property
    def answered(self) -> tuple[str, ...]:
        """The methods that are answered: HEAD wherever GET is (RFC 9110, section 9.3.2)."""
        return (*self.methods, "HEAD") if "GET" in self.methods and "HEAD" not in self.methods else self.methods

    @property
    def head(self) -> str:
        """What the path begins with, up to a parameter or to its third segment: ``/healthz``, ``/v1/jobs``."""
        return "/".join(self.path.partition("{")[0].split("/")[:3])

    @property
    def parameters(self) -> list[str]:
        """The names of the path's parameters."""
        return re.findall(r"{(\w+)", self.path)

    def pattern(self, prefix: str) -> str:
        """Return the regular expression of the path below *prefix*."""
        pieces = re.split(r"({.+?})", prefix + self.path)
        return "".join(map(_piece, pieces)) + "$"


def _piece(text: str) -> str:
    if not text.startswith("{"):
        return re.escape(text)
    name = text.strip("{.}")
    return f"(?P<{name}>{'.*' if text.endswith('...}') else '[^/]+'})"


get, post, put, patch, delete = (partial(Route, (method,)) for method in ("GET", "POST", "PUT", "PATCH", "DELETE"))


@dataclass(frozen=True)
class Answer:
    """
    One way in which a request succeeds.

    Args:
        description: For people.
        body: A type, or a JSON Schema; without one, what ``answer`` returns.
    """

    description: str
    body: Any = ...
    _: KW_ONLY
    media_types: tuple[str, ...] = ("application/json",)
    headers: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


#: What a request that only reads is answered if the client has the answer already.
NOT_MODIFIED = Answer("Not modified.", None, headers=("ETag",))


@dataclass(frozen=True)
class Takes:
    """What an ``answer`` takes, read off its signature."""

    #: The path's parameters, and their types.
    path: Mapping[str, Any]
    #: The body's type: a model, or a dict with what describes it. None if the request has none.
    body: Any
    body_is_needed: bool
    #: The query's model; below ``/v1`` one without members if the route has no query, elsewhere None: it is ignored.
    query: type[BaseModel] | None
    #: Header fields, by the parameter that gets them.
    headers: Mapping[str, type[HeaderFields]]
    #: What it returns.
    returns: Any

    @classmethod
    def of(cls, endpoint: "type[Endpoint]") -> "Takes":
        """Read an endpoint's ``answer``."""
        signature = inspect.signature(endpoint.answer, eval_str=True)
        given = {name: each for name, each in signature.parameters.items() if name != "self"}
        path = {name: given.pop(name).annotation for name in endpoint.route.parameters}
        body = given.pop("body", None)
        query = given.pop("query", None)
        is_post = "POST" in endpoint.route.methods and endpoint.reads_json
        return cls(
            path=path,
            body=body.annotation if body else (Nothing if is_post else None),
            body_is_needed=body is not None and body.default is inspect.Parameter.empty,
            query=query.annotation if query else (Query if endpoint.route.path.startswith("/v1/") else None),
            headers={name: each.annotation for name, each in given.items()},
            returns=_but_none(signature.return_annotation),
        )

    @property
    def model(self) -> type[BaseModel] | None:
        """The model that a body is parsed as; None for one that ``answer`` gets as it is."""
        return self.body if isinstance(self.body, type) and issubclass(self.body, BaseModel) else None

    @property
    def body_type(self) -> Any:
        """What describes the body."""
        return get_args(self.body)[1] if get_origin(self.body) is Annotated else self.body


def _but_none(kind: Any) -> Any:
    """Return a type without the None that ``answer`` returns when all is written already."""
    kinds = [each for each in get_args(kind) if each is not NoneType] if isinstance(kind, UnionType) else []
    return kinds[0] if len(kinds) == 1 else kind


class Endpoint(Handler):
    """A route; see the module. Its methods here are in the order in which they are called."""

    route: ClassVar[Route]
    answers: ClassVar[Mapping[int, Answer]]
    #: Besides those that follow from what it takes.
    problems: ClassVar[tuple[Kind, ...]] = ()
    takes: ClassVar[Takes]
    #: Values that a body may have.
    max_nodes: ClassVar[int] = MAX_NODES
    #: Whether a body is JSON, and a POST without one has none.
    reads_json: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "route" in cls.__dict__:
            cls.takes = Takes.of(cls)
            cls.route_name = cls.route.name
            cls.has_etag = IfNoneMatch in cls.takes.headers.values()
            for method in cls.route.answered:
                setattr(cls, method.lower(), cls.respond)

    @classmethod
    def guard_problems(cls) -> tuple[Kind, ...]:
        """Return the problems of whoever guards the endpoint."""
        return ()

    def allowed_methods(self) -> tuple[str, ...]:
        return self.route.answered

    async def respond(self, **path: str) -> None:
        """Read the request, ask :meth:`answer`, and write what it says."""
        await self.admit(**path)
        arguments = {**self._read_query(), **await self._read_body(), **self._read_headers()}
        self.set_status(next(iter(self.answers)))
        document = await self.answer(**path, **arguments)
        if document is not None:
            await self.write_json(document)
        elif not self._headers_written and not self._finished:
            self.write_nothing()

    async def admit(self, **path: str) -> None:
        """Raise what there is to say before the request is read."""

    def _read_query(self) -> dict[str, Any]:
        model = self.takes.query
        if model is None:
            return {}
        parsed = parse_query(model, self.request.query_arguments)
        return {} if model is Query else {"query": parsed}

    async def _read_body(self) -> dict[str, Any]:
        takes, model = self.takes, self.takes.model
        if takes.body is None:
            return {}
        document = await self.read_json(optional=not takes.body_is_needed, max_nodes=self.max_nodes)
        if model is None:
            return {"body": document}
        if self.size <= MAX_INLINE:
            parsed = parse(model, document)
        else:
            parsed = await asyncio.to_thread(parse, model, document)
        return {} if model is Nothing else {"body": parsed}

    def _read_headers(self) -> dict[str, HeaderFields]:
        given = {name: kind.of_headers(self.request.headers) for name, kind in self.takes.headers.items()}
        for fields in given.values():
            for name, value in fields.answered().items():
                self.add_header(name, value)
        return given

    async def answer(self, *args: Any, **kwargs: Any) -> Any:
        """
        Answer the request; each endpoint has its own.

        Returns:
            A document; or None: there is no body, or all is written already.

        Raises:
            Problem: One of ``problems``.
        """
        raise NotImplementedError


def endpoints_of(module: ModuleType) -> list[type[Endpoint]]:
    """Return the endpoints that a module has, in its order."""
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    return [each for each in classes if issubclass(each, Endpoint) and "route" in vars(each)]


class MethodNotAllowed(Handler):
    """A path of the service's, by a method that it does not have."""

    #: Those that it has.
    allowed: tuple[str, ...] = ()

    def allowed_methods(self) -> tuple[str, ...]:
        return tuple(method for method in self.SUPPORTED_METHODS if method in self.allowed)

    def get(self, **_: str) -> None:
        raise METHOD_NOT_ALLOWED("Method Not Allowed.")

    head = post = put = patch = delete = options = get


class NotFound(Handler):
    """A path that the service does not have."""

    def get(self, *_: str, **__: str) -> None:
        raise NOT_FOUND("There is nothing at this path.")

    head = post = put = patch = delete = options = get


class _Begins(Matcher):
    """Matches paths by what they begin with, so that most of the regular expressions are not tried."""

    def __init__(self, head: str) -> None:
        self._head = head

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        return {} if request.path.startswith(self._head) else None


class _Matches(PathMatches):
    """Matches a path, by some methods only."""

    def __init__(self, pattern: str, methods: tuple[str, ...]) -> None:
        super().__init__(pattern)
        self._methods = methods

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        return super().match(request) if request.method in self._methods else None


def rules(
    endpoints: Iterable[type[Endpoint]], prefix: str, not_allowed: type[MethodNotAllowed], **kwargs: Any
) -> list[Rule]:
    """
    Return Tornado's rules for *endpoints*.

    Args:
        endpoints: Which.
        prefix: What their paths begin with.
        not_allowed: What answers methods that a path does not have.
        kwargs: What each handler is initialized with.
    """
    heads: dict[str, list[Rule]] = {}
    methods: dict[str, tuple[Route, tuple[str, ...]]] = {}
    for endpoint in endpoints:
        route, pattern = endpoint.route, endpoint.route.pattern(prefix)
        heads.setdefault(route.head, []).append(Rule(_Matches(pattern, route.answered), endpoint, kwargs))
        methods[pattern] = (route, methods.get(pattern, (route, ()))[1] + route.answered)
    for pattern, (route, allowed) in methods.items():
        options = {**kwargs, "allowed": allowed, "route_name": route.name}
        heads[route.head].append(Rule(PathMatches(pattern), not_allowed, options))
    return [Rule(_Begins(prefix + head), made) for head, made in heads.items()]
