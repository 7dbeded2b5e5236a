-- run_now: accept a run on demand. A worker publishes it.
-- KEYS: schedule:{name}, schedules:runs:{name}
-- ARGV: prefix, name, job_id, record, input, message, its_note, kept, ttl
-- Answers: 'accepted'; 'unknown' if there is no such entry; 'revoked', 'full' or 'off' if no run may begin now
-- include: write, wake, notes, allowed

if redis.call('EXISTS', key_of(name)) == 0 then return 'unknown' end
local refused = why_not_run(record)
if refused then return refused end
turn(job_id)
write(record, input, ttl, 0, message, '')
publish_later(now())
redis.call('HSET', key_of(name), 'last', id, 'last_at', now())
note(name, its_note, tonumber(kept))
return 'accepted'
