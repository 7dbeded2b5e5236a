-- delete_job: forget a job that has ended, with all that is kept of it, before its time is over.
-- KEYS: job:{job_id}, due
-- ARGV: prefix, job_id, remembered
-- Answers: why it is not deleted: gone | not-ended | workflow-not-ended | callback-waiting; '' if it is
--   remembered: ms for which its id is still known.
-- include: delete

turn(job_id)
local why = reason_to_keep()
if not why then delete_job(remembered) end
return why or ''
