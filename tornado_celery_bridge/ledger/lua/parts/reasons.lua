-- reasons: why a job is revoked, as JSON of its error.

local CANCELLED = '{"type":"TaskRevokedError","module":"celery.exceptions","message":"cancelled"}'
local EXPIRED = '{"type":"TaskRevokedError","module":"celery.exceptions","message":"expired"}'
