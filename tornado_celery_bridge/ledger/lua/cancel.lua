-- cancel: cancel a job for good: one that has not begun ends here, one that runs is marked.
-- KEYS: job:{job_id}, events:{job_id}
-- ARGV: prefix, job_id, unless_begun, grace
-- Answers: the state that it was in; nothing if there is no such job
--   grace: ms after which the process of one that runs is ended, 0 for never.
-- include: cancel

turn(job_id)
return cancel(unless_begun ~= '', tonumber(grace))
