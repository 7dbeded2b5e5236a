"""
The service as an OpenAPI 3.1 document, made of what the endpoints declare.

:meth:`Operation.of` reads an endpoint; schemas, responses, headers and parameters follow from that.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from re import sub
from typing import Any, Self

from pydantic import TypeAdapter

from tornado_celery_bridge import __version__
from tornado_celery_bridge.service.http import problems
from tornado_celery_bridge.service.http.documents import Problem
from tornado_celery_bridge.service.http.endpoint import Answer, Endpoint
from tornado_celery_bridge.service.http.handler import SAFE
from tornado_celery_bridge.service.http.problems import Kind, title, type_uri

Schema = dict[str, Any]

SCHEMAS = "#/components/schemas/"

DESCRIPTION = """\
Jobs over HTTP: a *job* is one run of a Celery task, and its id is the task's id.

Every error is `application/problem+json` (RFC 9457), and every answer has an `X-Request-Id` and a
`traceparent`. A path that is not here
answers 404 `not-found`; a method that is not here, 405 `method-not-allowed` with `Allow`.

An integer has no more than 64 bits, and is written as one: `1`, not `1.0`."""

HEADERS: dict[str, Schema] = {
    "X-Request-Id": {"description": "Names the request in the service's log.", "required": True},
    "traceparent": {
        "description": "The request's (W3C Trace Context), or a new one; where the service is traced, its own.",
        "required": True,
    },
    "Location": {"description": "The path of what was made.", "required": True},
    "Retry-After": {"description": "Seconds after which to ask again."},
    "Preference-Applied": {"description": "For how many seconds the service would wait: `wait=N`."},
    "ETag": {"description": "Names this version of the content.", "required": True},
}
#: Headers that every answer has.
_NAMES = ("X-Request-Id", "traceparent")

TAGS = {
    "tasks": "Which tasks there are.",
    "submit": "Submitting a job: one operation for each task.",
    "jobs": "Reading, following and changing jobs.",
    "schedules": "Running tasks at set times.",
    "monitoring": "Statistics, queues and workers, for everybody's jobs.",
    "service": "The process, and this document.",
}

# What goes wrong anywhere, and with any JSON body.
_ALWAYS = (
    *(problems.BAD_REQUEST, problems.BODY_TOO_LARGE, problems.URI_TOO_LONG, problems.HEADER_TOO_LARGE),
    problems.INTERNAL_ERROR,
)
_BODY = (
    problems.INVALID_JSON,
    problems.UNACCEPTABLE_JSON,
    problems.TOO_DEEP,
    problems.TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.INVALID_BODY,
)


@dataclass(frozen=True)
class Operation:
    """A method of a path, as the document shows it."""

    endpoint: type[Endpoint]
    path: str
    id: str
    summary: str
    description: str
    answers: Mapping[int, Answer]
    parameters: tuple[Schema, ...]
    body: Any  #: a type, or a JSON Schema; None for none

    @classmethod
    def of(cls, endpoint: type[Endpoint]) -> Self:
        """Return what an endpoint declares."""
        takes = endpoint.takes
        summary, _, description = inspect.cleandoc(endpoint.__doc__ or "").partition("\n\n")
        answered = tuple(name for fields in takes.headers.values() for name in fields.ANSWERED)
        answers = {
            status: replace(
                answer, body=takes.returns if answer.body is ... else answer.body, headers=answer.headers + answered
            )
            for status, answer in endpoint.answers.items()
        }
        return cls(
            endpoint,
            sub(r"\.\.\.}", "}", endpoint.route.path),
            sub(r"(?<!^)(?=[A-Z])", "_", endpoint.__name__).lower(),
            " ".join(summary.removesuffix(".").split()),
            description,
            answers,
            tuple(_parameters(endpoint)),
            takes.body_type,
        )


def problems_of(endpoint: type[Endpoint]) -> Iterable[Kind]:
    """Yield all problems that an endpoint may answer with; one of them perhaps twice."""
    yield from _ALWAYS
    yield from endpoint.guard_problems()
    if endpoint.route.methods[0] not in SAFE:
        yield problems.FORBIDDEN
    if endpoint.takes.body is not None:
        yield from _BODY
    if endpoint.takes.query is not None:
        yield problems.INVALID_QUERY
    yield from endpoint.problems


def make_document(
    operations: Iterable[Operation], schemas: Mapping[str, Schema], links: Mapping[str, Schema], *types: Any
) -> dict[str, Any]:
    """
    Return the document.

    Args:
        operations: Which.
        schemas: Those that are not of Python's types.
        links: What answers may be asked about next.
        types: What else is read, and in no operation's body alone.
    """
    shown = list(operations)
    bodies, fixed = _schemas_of(_types(shown, types))
    return {
        "openapi": "3.1.1",
        "info": {"title": "Jobs over Celery", "version": __version__, "description": DESCRIPTION},
        # Relative to this document, so that it holds under whatever prefix the service is.
        "servers": [{"url": ".", "description": "this service"}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": _paths(shown, bodies),
        "components": {
            "schemas": {**deepcopy(fixed), **schemas},
            "responses": dict(chain.from_iterable(map(_problem_responses, shown))),
            "headers": {name: _header(name) for name in HEADERS},
            "links": dict(links),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "Where keys are set up."}},
        },
    }


def ref(kind: str, name: str) -> dict[str, str]:
    """Return a reference to one of the document's components."""
    return {"$ref": f"#/components/{kind}/{name}"}


# Operations.

_Bodies = Mapping[Any, Schema]


def _paths(operations: Iterable[Operation], bodies: _Bodies) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for operation in operations:
        method = operation.endpoint.route.methods[0].lower()
        paths.setdefault(operation.path, {})[method] = _operation(operation, bodies)
    return paths


def _operation(operation: Operation, bodies: _Bodies) -> dict[str, Any]:
    answers = {str(status): _answer(answer, bodies) for status, answer in sorted(operation.answers.items())}
    problems = {key.split(".")[0]: ref("responses", key) for key in dict(_problem_responses(operation))}
    endpoint = operation.endpoint
    shown: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [endpoint.route.tag],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [*operation.parameters],
        "responses": answers | problems,
        # Without a file of keys, no key is needed.
        "security": [] if endpoint.route.is_public else [{}, {"key": []}],
    }
    if operation.body is not None:
        content = {endpoint.body_media_type: {"schema": _schema_of(operation.body, "validation", bodies)}}
        shown["requestBody"] = {"required": endpoint.takes.body_is_needed, "content": content}
    return {name: value for name, value in shown.items() if value != "" and (value != [] or name == "security")}


def _answer(answer: Answer, bodies: _Bodies) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "description": answer.description,
        "headers": {name: ref("headers", name) for name in (*_NAMES, *answer.headers)},
    }
    if answer.body is not None:
        content = {} if answer.body == {} else {"schema": _schema_of(answer.body, "serialization", bodies)}
        shown["content"] = dict.fromkeys(answer.media_types, content)
    if answer.links:
        shown["links"] = {name: ref("links", name) for name in answer.links}
    return shown


def _schema_of(body: Any, mode: str, bodies: _Bodies) -> Schema:
    return body if isinstance(body, dict) else bodies[body, mode]


def _header(name: str) -> dict[str, Any]:
    return {**HEADERS[name], "schema": {"type": "string"}}


# Parameters.


def _parameters(endpoint: type[Endpoint]) -> Iterable[Schema]:
    takes = endpoint.takes
    for name, kind in takes.path.items():
        yield _parameter(name, "path", _plain(TypeAdapter(kind).json_schema()))
    if takes.query is not None:
        schema = takes.query.model_json_schema()
        for name, given in schema["properties"].items():
            yield _parameter(name, "query", _plain(given))
    for fields in takes.headers.values():
        for name, told in fields.PARAMETERS.items():
            yield {"name": name, "in": "header", "required": False, **told, "schema": {"type": "string"}}


def _plain(schema: Schema) -> Schema:
    """Return a parameter's schema without what a query can't say: null, and the name of a Python class."""
    ways = [way for way in schema.pop("anyOf", []) if way != {"type": "null"}]
    default = schema.pop("default", None)
    made = {name: value for name, value in {**schema, **(ways[0] if ways else {})}.items() if name != "title"}
    return made if default in (None, "", []) else {**made, "default": default}


def _parameter(name: str, place: str, schema: Schema) -> Schema:
    beside: Schema = {word: schema.pop(word) for word in ("description",) if word in schema}
    return {"name": name, "in": place, "required": place == "path", **beside, "schema": schema}


# Problems.


def _problem_responses(operation: Operation) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield one response for each status with which an operation may fail; its name says the codes, so it is shared."""
    by_status: dict[int, list[Kind]] = {}
    for kind in sorted(set(problems_of(operation.endpoint)), key=lambda kind: kind.code):
        by_status.setdefault(kind.status, []).append(kind)
    for status, kinds in sorted(by_status.items()):
        yield ".".join([str(status), *(kind.code for kind in kinds)]), _problem_response(status, kinds)


def _problem_response(status: int, kinds: list[Kind]) -> dict[str, Any]:
    headers: dict[str, Any] = {name: ref("headers", name) for name in _NAMES}
    if status in (409, 429, 503):
        headers["Retry-After"] = ref("headers", "Retry-After")
    if any(kind.code == "dispatch-uncertain" for kind in kinds):
        headers["Location"] = {**_header("Location"), "required": False}
    examples = {kind.code: {"value": _example(kind)} for kind in kinds}
    return {
        "description": "\n".join([f"{title(status)}:\n", *(f"- `{kind.code}`: {kind.when}" for kind in kinds)]),
        "headers": headers,
        "content": {problems.CONTENT_TYPE: {"schema": ref("schemas", "Problem"), "examples": examples}},
    }


def _example(kind: Kind) -> Problem:
    return {
        "type": type_uri(kind.code),
        "title": title(kind.status),
        "status": kind.status,
        "detail": kind.when,
        "instance": "/v1/…",
        "code": kind.code,
        "request_id": "3b3f3c7a5a1a8a54",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


# Schemas.


def _types(operations: Iterable[Operation], more: Iterable[Any]) -> frozenset[tuple[Any, str]]:
    """Return all types that are read and written, each with which of the two it is."""
    shown = list(operations)
    read = [*more, *(operation.body for operation in shown)]
    written = [Problem, *(answer.body for operation in shown for answer in operation.answers.values())]
    modes = {"validation": read, "serialization": written}
    return frozenset(
        (body, mode) for mode, bodies in modes.items() for body in bodies if not isinstance(body, dict | None)
    )


@cache
def _schemas_of(types: frozenset[tuple[Any, str]]) -> tuple[_Bodies, dict[str, Schema]]:
    """
    Return the schemas of *types*, and those that they refer to.

    They take a quarter of a second, and are the same for every service of a process.
    """
    inputs: Any = [(body, mode, TypeAdapter(body)) for body, mode in types]
    bodies, schemas = TypeAdapter.json_schemas(inputs, ref_template=f"{SCHEMAS}{{model}}")
    return bodies, {name: _untitled(schema) for name, schema in sorted(schemas["$defs"].items())}


def _untitled(schema: Schema) -> Schema:
    """Return *schema* without its title: client generators name a class after that, and they are all called Input."""
    return {name: value for name, value in schema.items() if name != "title"}


def lifted(name: str, make: Callable[[str], Schema]) -> dict[str, Schema]:
    """Return a schema and those that it refers to, each as a component of its own."""
    schema = make(f"{SCHEMAS}{name}.{{model}}")
    parts = schema.pop("$defs", {})
    return {name: _untitled(schema), **{f"{name}.{model}": _untitled(part) for model, part in parts.items()}}
