"""Submitting a job in the OpenAPI document: one operation for each task, with the schemas of its input and result."""

import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from tornado_celery_bridge.service.http.openapi import Operation, lifted, ref
from tornado_celery_bridge.service.resources.catalogue import ExposedTask
from tornado_celery_bridge.service.resources.jobs.endpoints import SubmitJob

Schema = dict[str, Any]


def _named(tasks: Collection[ExposedTask]) -> Iterator[tuple[ExposedTask, str]]:
    """Yield each task and what stands for it in identifiers. A checksum tells apart what would be the same."""
    plain = {task: re.sub(r"[^A-Za-z0-9_]", "_", task.name) for task in tasks}
    count = Counter(plain.values())
    for task, slug in plain.items():
        yield task, slug if count[slug] == 1 else f"{slug}_{zlib.crc32(task.name.encode()):08x}"


def submissions(tasks: Collection[ExposedTask]) -> Iterator[Operation]:
    """Yield the operations that submit a job, one for each task."""
    declared = Operation.of(SubmitJob)
    for task, slug in _named(tasks):
        job = ref("schemas", f"{slug}.job")
        yield replace(
            declared,
            path=f"/v1/tasks/{quote(task.name, safe='')}/jobs",
            id=f"submit_{slug}",
            summary=task.summary or task.name,
            description=task.description,
            parameters=tuple(each for each in declared.parameters if each["in"] != "path"),
            body=ref("schemas", f"{slug}.submission"),
            answers={status: replace(answer, body=job) for status, answer in declared.answers.items()},
        )


def task_schemas(tasks: Collection[ExposedTask]) -> dict[str, Schema]:
    """Return what the tasks take, as the body of a request; and what they return, as part of a job."""
    schemas: dict[str, Schema] = {}
    for task, slug in _named(tasks):
        schemas |= _schemas_of(task, slug)
    return schemas


def _schemas_of(task: ExposedTask, slug: str) -> dict[str, Schema]:
    given = lifted(f"{slug}.input", task.make_input_schema)
    returned = lifted(f"{slug}.result", task.make_result_schema)
    named = given[f"{slug}.input"]
    ways = [ref("schemas", f"{slug}.input"), *_positional(task, named)]
    submission = {
        "type": "object",
        "properties": {
            "input": {"anyOf": ways} if len(ways) > 1 else ways[0],
            "options": ref("schemas", "JobOptions"),
        },
        "required": ["input"] if named.get("required") else [],
        "additionalProperties": False,
    }
    result = {"type": "object", "properties": {"result": ref("schemas", f"{slug}.result")}}
    job = {"allOf": [ref("schemas", "Job"), result]}
    return {**given, **returned, f"{slug}.submission": submission, f"{slug}.job": job}


def _positional(task: ExposedTask, named: Schema) -> list[Schema]:
    """Return the schema of a list of arguments; none if some parameter that must be there has nothing but a name."""
    required, names = named.get("required", []), task.positional
    if not set(required) <= set(names):
        return []
    schema: Schema = {"type": "array", "minItems": len(required)}
    if names:
        schema["prefixItems"] = [named["properties"][name] for name in names]
    if (rest := task.rest_schema) is not None:
        schema["items"] = rest
    else:
        schema["maxItems"] = len(names)
        if not names:
            schema["items"] = {}  # openapi-python-client takes no array without either
    return [schema]
