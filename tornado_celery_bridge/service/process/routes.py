"""All endpoints of the service, and the OpenAPI document of them."""

from typing import Any

from tornado_celery_bridge.service.access import endpoints as access
from tornado_celery_bridge.service.access.keys import EVERYBODY, Principal
from tornado_celery_bridge.service.http.endpoint import endpoints_of
from tornado_celery_bridge.service.http.openapi import Operation, make_document
from tornado_celery_bridge.service.pages import endpoints as pages
from tornado_celery_bridge.service.pages import flower, login
from tornado_celery_bridge.service.resources.callbacks import endpoints as callbacks
from tornado_celery_bridge.service.resources.catalogue import Catalogue
from tornado_celery_bridge.service.resources.failures import endpoints as failures
from tornado_celery_bridge.service.resources.jobs import attempts, streams
from tornado_celery_bridge.service.resources.jobs import endpoints as jobs
from tornado_celery_bridge.service.resources.jobs.accepting import JOB_LINKS
from tornado_celery_bridge.service.resources.jobs.options import JobOptions
from tornado_celery_bridge.service.resources.jobs.submissions import submissions, task_schemas
from tornado_celery_bridge.service.resources.limits import endpoints as limits
from tornado_celery_bridge.service.resources.monitoring import endpoints as monitoring
from tornado_celery_bridge.service.resources.operations import endpoints as operations
from tornado_celery_bridge.service.resources.schedules import endpoints as schedules
from tornado_celery_bridge.service.resources.tasks import endpoints as tasks
from tornado_celery_bridge.service.resources.workflows import endpoints as workflows

_ROOMS = (
    *(tasks, limits, jobs, attempts, streams, workflows, callbacks, failures, operations, schedules),
    *(monitoring, access, pages, login, flower),
)
#: Every route that the service has.
ENDPOINTS = tuple(endpoint for room in _ROOMS for endpoint in endpoints_of(room))

_LINKS = {name: {"operationId": name, "parameters": {"id": "$response.body#/id"}} for name in JOB_LINKS}


def openapi_of(catalogue: Catalogue, caller: Principal | None = EVERYBODY) -> dict[str, Any]:
    """
    Return the OpenAPI document of the service.

    Args:
        catalogue: Its tasks.
        caller:
            Who asks: the document has the tasks that they may run. None for whoever has no key, who learns the names
            of no task and no queue.
    """
    tasks = [] if caller is None else [task for task in catalogue if caller.may_run(task.name)]
    shown = [Operation.of(each) for each in ENDPOINTS if each.route.tag and (each is not jobs.SubmitJob or not tasks)]
    operations = [*shown, *submissions(tasks)]
    document = make_document(operations, task_schemas(tasks), _LINKS, JobOptions)
    schemas = document["components"]["schemas"]
    if caller is None:
        return document
    for name in ("JobOptions", "RunOptions"):
        schemas[name]["properties"]["queue"]["anyOf"][0]["enum"] = sorted(catalogue.queues)
    for name in ("NewSchedule", "ScheduleFields"):
        schemas[name]["properties"]["task"]["enum"] = [task.name for task in tasks]
    return document
