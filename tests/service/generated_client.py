"""Submits and reads jobs with a client that was generated from the OpenAPI document; a script of test_openapi.py."""

import sys

from jobs_client import Client
from jobs_client.api.jobs import cancel_job, read_job
from jobs_client.api.submit import submit_s_add
from jobs_client.models import JobOptions, Problem, SAddInput, SAddSubmission

with Client(base_url=sys.argv[1], raise_on_unexpected_status=True) as client:
    named = SAddSubmission(input_=SAddInput(x=2, y=3), options=JobOptions(tags=["generated"]))
    answer = submit_s_add.sync_detailed(client=client, body=named, prefer="wait=20")
    assert answer.status_code == 200, answer
    job = answer.parsed
    assert (job.task, job.state, job.done, job.result, job.tags) == ("s.add", "SUCCESS", True, 5, ["generated"]), job
    again = read_job.sync(job.id, client=client)
    assert (again.id, again.result, again.created_at) == (job.id, 5, job.created_at), again

    positional = SAddSubmission(input_=[1], options=JobOptions(countdown=600.0))
    later = submit_s_add.sync(client=client, body=positional)
    assert not later.done, later
    assert cancel_job.sync(later.id, client=client).id == later.id

    refused = submit_s_add.sync(client=client, body=SAddSubmission(input_=["one"]))
    assert isinstance(refused, Problem), refused
    assert (refused.code, refused.errors[0].pointer) == ("invalid-input", "/input/0"), refused
