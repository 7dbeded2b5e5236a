-- cancel: cancel a job for good. If it has not begun it ends here; if it runs it is marked.
-- KEYS: job:{job_id}, events:{job_id}
-- ARGV: prefix, job_id, unless_begun, grace
-- Answers: the state that it was in; nothing if there is no such job
--   grace: ms after which its process is ended if it still runs, 0 for never.
-- include: cancel

turn(job_id)
return cancel(unless_begun ~= '', tonumber(grace))
