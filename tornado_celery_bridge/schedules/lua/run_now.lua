-- run_now: accept a run on demand. A worker publishes it.
-- KEYS: schedule:{name}, schedules:runs:{name}
-- ARGV: prefix, name, job_id, record, input, message, its_note, kept, ttl
-- Answers: whether there is such an entry
-- include: write, wake, notes

if redis.call('EXISTS', key_of(name)) == 0 then return 0 end
turn(job_id)
write(record, input, ttl, 0, message, '')
publish_later(now())
redis.call('HSET', key_of(name), 'last', id, 'last_at', now())
note(name, its_note, tonumber(kept))
return 1
