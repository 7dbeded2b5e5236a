"""What schemathesis checks beside what it checks by itself; it imports this in a process of its own."""

from typing import Any

import schemathesis
from schemathesis import Case, Response


@schemathesis.check
def the_code_is_documented(context: Any, response: Response, case: Case[Any]) -> None:
    """Every problem has one of the codes that its operation names for its status."""
    documented = case.operation.responses.find_by_status_code(response.status_code)
    if response.status_code >= 400 and documented is not None:
        examples = documented.definition["content"]["application/problem+json"]["examples"]
        assert response.json()["code"] in examples, response.json()
