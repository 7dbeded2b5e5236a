"""``/v1/me`` and ``/v1/audit``: who asks, and who changed what."""

from typing import ClassVar

from tornado_celery_bridge.service.access import documents
from tornado_celery_bridge.service.access.guard import Endpoint
from tornado_celery_bridge.service.http.endpoint import Answer, get
from tornado_celery_bridge.service.http.problems import INVALID_CURSOR
from tornado_celery_bridge.service.http.query import Page


class ReadMe(Endpoint):
    """Who am I, and what may I do?"""

    route = get("/v1/me", tag="service")
    answers: ClassVar = {200: Answer("What the key may do.")}
    needs_ledger = False

    async def answer(self) -> documents.Me:
        return documents.me(self.caller, self.login)


class ListAudit(Endpoint):
    """Who changed what, newest first."""

    route = get("/v1/audit", scope="admin", tag="service")
    answers: ClassVar = {200: Answer("A page.")}
    problems: ClassVar = (INVALID_CURSOR,)

    async def answer(self, query: Page) -> documents.AuditEntries:
        entries, cursor = await self.service.audit.find(query.limit, query.cursor)
        refused = [] if query.cursor else await self.service.audit.refused()
        return {"entries": entries, "refused": refused, "next_cursor": cursor}
