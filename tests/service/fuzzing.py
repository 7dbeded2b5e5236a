"""What schemathesis checks beside what it checks by itself; it imports this in a process of its own."""

import re
from typing import Any

import schemathesis
from schemathesis import Case, Response

#: What an idempotency key or a body may be beside what a schema says: used before, nested deeper, of 64 bits.
BESIDE = re.compile("(invalid-)?idempotency-key.*|unacceptable-json|too-deep|too-large")
#: Options of which a schema can't say all: times, whom the service may call, limits that exclude each other.
MEANT = re.compile("/options/(eta|expires|callback_url|time_limit|soft_time_limit)")


@schemathesis.check
def the_code_is_documented(context: Any, response: Response, case: Case[Any]) -> None:
    """Every problem has one of the codes that its operation names for its status."""
    documented = case.operation.responses.find_by_status_code(response.status_code)
    if response.status_code >= 400 and documented is not None:
        examples = documented.definition["content"]["application/problem+json"]["examples"]
        assert response.json()["code"] in examples, response.json()


@schemathesis.check
def what_fits_is_accepted(context: Any, response: Response, case: Case[Any]) -> None:
    """
    A job that fits the document is refused only for what a schema can't say, and in that place.

    schemathesis' own check of this only knows statuses, and each operation may answer 422.
    """
    is_whole = case.meta is not None and case.meta.generation.mode.is_positive
    is_job = case.path.startswith("/v1/tasks/") and case.path.endswith("/jobs")
    if not is_whole or not is_job or not 400 <= response.status_code < 500:
        return
    told = response.json()
    if BESIDE.fullmatch(told["code"]):
        return
    for fault in told.get("errors") or [{"pointer": "?"}]:
        given = value_at(case.body, fault["pointer"])
        is_written_otherwise = isinstance(given, float) and given.is_integer()  # an integer is 1, and not 1.0
        assert is_written_otherwise or MEANT.fullmatch(fault["pointer"]), (told, case.body)


def value_at(document: Any, pointer: str) -> Any:
    """Return the value that a JSON Pointer leads to; None if there is none."""
    for key in pointer.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        if isinstance(document, list) and key.isdigit() and int(key) < len(document):
            document = document[int(key)]
        else:
            document = document.get(key) if isinstance(document, dict) else None
    return document
