-- adopt: keep a blob for as long as a job, if the job is there.
-- KEYS: job:{job_id}, blobs
-- ARGV: prefix, job_id, blob
-- Answers: nothing
-- include: blobs

turn(job_id)
if redis.call('EXISTS', job) == 1 then adopt_blob(blob) end
