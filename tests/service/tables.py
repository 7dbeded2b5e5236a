"""
The tables of routes in docs/http.md and docs/http/: written from what the endpoints declare.

A page has ``<!-- routes /v1/jobs* -->`` (patterns of paths) or ``<!-- scopes -->``, a table, and ``<!-- end -->``.
``python -m tests.service.tables`` writes the tables anew, and ``test_tables`` compares.
"""

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from tests.service.site import ROOT
from tornado_celery_bridge.service.access.keys import SCOPES
from tornado_celery_bridge.service.http.body import Nothing
from tornado_celery_bridge.service.http.endpoint import Endpoint
from tornado_celery_bridge.service.http.openapi import Operation
from tornado_celery_bridge.service.process.routes import ENDPOINTS

PAGES = [ROOT / "docs" / "http.md", *sorted((ROOT / "docs" / "http").glob("*.md"))]
SHOWN = tuple(endpoint for endpoint in ENDPOINTS if endpoint.route.tag)

#: Members of a body that a table lists. Where there are more, it names the schema.
MOST_FIELDS = 8

_BLOCK = re.compile(
    r"(?P<begin><!-- (?P<what>routes|scopes) ?(?P<patterns>.*?) ?-->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


def name_of(endpoint: type[Endpoint]) -> str:
    return f"`{endpoint.route.methods[0]} {endpoint.route.path}`"


def routes_table(endpoints: Iterable[type[Endpoint]]) -> Iterator[str]:
    yield "| route | scope | what it does | takes | answers |"
    yield "| --- | --- | --- | --- | --- |"
    for endpoint in endpoints:
        route = endpoint.route
        scope = "no key" if route.is_public else f"`{route.scope}`" if route.scope else "any key"
        operation = Operation.of(endpoint)
        cells = (name_of(endpoint), scope, operation.summary, _takes(endpoint), _answers(endpoint, operation))
        yield f"| {' | '.join(cells)} |"


def _takes(endpoint: type[Endpoint]) -> str:
    takes = endpoint.takes
    fields = getattr(takes.body_type, "model_fields", None) or getattr(takes.body_type, "__annotations__", {})
    body = [f"`{name}`" for name in fields] if takes.body is not Nothing else []
    if len(body) > MOST_FIELDS:
        body = [f"a `{takes.body_type.__name__}`"]
    query = [f"`?{name}`" for name in takes.query.model_fields] if takes.query else []
    headers = [f"`{name}`" for fields in takes.headers.values() for name in fields.PARAMETERS]
    return ", ".join([*body, *query, *headers])


def _answers(endpoint: type[Endpoint], operation: Operation) -> str:
    statuses = ", ".join(f"**{status}**" for status in sorted(operation.answers))
    problems: dict[int, list[str]] = {}
    for kind in sorted(set(endpoint.problems), key=lambda kind: (kind.status, kind.code)):
        problems.setdefault(kind.status, []).append(f"`{kind.code}`")
    return "; ".join([statuses, *(f"{status} {', '.join(codes)}" for status, codes in problems.items())])


def scopes_table() -> Iterator[str]:
    yield "| scope | routes |"
    yield "| --- | --- |"
    for scope in (*SCOPES, None):
        routes = [name_of(each) for each in ENDPOINTS if each.route.scope == scope and not each.route.is_public]
        yield f"| {f'`{scope}`' if scope else 'any key'} | {', '.join(routes)} |"


def matching(patterns: str) -> list[type[Endpoint]]:
    """Return the routes whose paths match one of the patterns."""
    return [each for each in SHOWN if any(fnmatchcase(each.route.path, pattern) for pattern in patterns.split())]


def rewritten(page: Path) -> str:
    """Return a page with its tables as they should be."""

    def table(found: re.Match[str]) -> str:
        lines = scopes_table() if found["what"] == "scopes" else routes_table(matching(found["patterns"]))
        body = "\n".join(lines)
        return f"{found['begin']}{body}\n{found['end']}"

    return _BLOCK.sub(table, page.read_text("utf-8"))


def shown() -> set[type[Endpoint]]:
    """Return the routes that are in some page's table."""
    blocks = [found for page in PAGES for found in _BLOCK.finditer(page.read_text("utf-8"))]
    return {each for found in blocks for each in matching(found["patterns"])}


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(rewritten(each), "utf-8")
