"""What schemathesis is told about the service; it imports this in a process of its own."""

from typing import Any

import schemathesis
from schemathesis import Case, HookContext, Response


@schemathesis.hook
def map_body(context: HookContext, body: Any) -> Any:
    """
    Write numbers as the service tells them apart and JSON Schema cannot: 1.0 as 1, for an integer is wanted in digits
    alone; and no integer that has more than 64 bits.
    """
    match body:
        case int() if not -(2**63) <= body < 2**63:
            return min(max(body, -(2**63)), 2**63 - 1)
        case float() if body.is_integer() and abs(body) < 2**63:
            return int(body)
        case dict():
            return {name: map_body(context, child) for name, child in body.items()}
        case list():
            return [map_body(context, child) for child in body]
    return body


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Leave out what means something only together with what was sent or had before."""
    headers = ("Idempotency-Key", "Last-Event-ID", "If-Match", "If-None-Match")
    for given, names in ((case.headers, headers), (case.query, ("cursor", "after"))):
        for name in names:
            if given and name in given:
                del given[name]
    if case.path == "/v1/events":  # which needs the one or the other, and not both
        query = case.query = case.query or {}
        query.pop("tag" if query.get("job") else "job", None)
        if not query.get("tag"):
            query.setdefault("job", ["none"])
    if isinstance(case.body, dict) and isinstance(options := case.body.get("options"), dict):
        url = options.get("callback_url")
        if isinstance(url, str) and url.startswith(("http://", "https://")) and len(url) <= 2_000:
            options["callback_url"] = "https://callback.invalid/"  # whether it may be called, a schema cannot say
    if case.path.startswith("/v1/schedules") and (case.meta is None or case.meta.generation.mode.is_positive):
        mean_something(case)
    if case.path.endswith("/retry") and isinstance(case.body, dict):
        case.body.pop("input", None)  # whether it fits depends on the job


def mean_something(case: Case[Any]) -> None:
    """Have a schedule be one that can be meant, which a schema cannot say."""
    body = case.body
    if not isinstance(body, dict):
        return
    if case.path.endswith("/backfill"):
        body |= {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}
    elif case.path.endswith("/pause"):
        body.pop("until", None)
    elif case.path in ("/v1/schedules", "/v1/schedules/{name}"):
        for name in ("interval", "anchor", "once", "solar", "start", "end", "paused_until"):
            body.pop(name, None)
        if case.method == "PUT":
            case.path_parameters["name"] = "put"
        body |= {"task": "s.add", "input": {"x": 1}, "crontab": "0 * * * *", "timezone": "Europe/Paris", "tags": ["x"]}
        if case.method != "POST":
            body["name"] = None


@schemathesis.check
def the_code_is_documented(context: Any, response: Response, case: Case[Any]) -> None:
    """Every problem has one of the codes that its operation names for its status."""
    documented = case.operation.responses.find_by_status_code(response.status_code)
    if response.status_code >= 400 and documented is not None:
        examples = documented.definition["content"]["application/problem+json"]["examples"]
        assert response.json()["code"] in examples, response.json()
