-- backfill: accept runs of slots in the past. A worker publishes them; the entry does not change.
-- KEYS: schedule:{name}, schedules:runs:{name}
-- ARGV: prefix, name, kept, ttl, dry_run
-- ROWS: job_id, record, input, message, its_note
-- Answers: the ids of the jobs that were accepted, or on a dry run would be, before those '' or why no more
-- may begin: 'revoked', 'full' or 'off'; nothing if there is no entry
-- include: write, wake, notes, allowed, rows

local accepted = {''}
if redis.call('EXISTS', key_of(name)) == 0 then return end
for job_id, record, input, message, its_note in rows() do
  turn(job_id)
  if redis.call('EXISTS', job) == 0 and redis.call('EXISTS', prefix .. 'gone:' .. id) == 0 then
    local refused = dry_run == '' and why_not_run(record)
    if refused then
      accepted[1] = refused
      return accepted
    end
    accepted[#accepted + 1] = id
    if dry_run == '' then
      write(record, input, ttl, 0, message, '')
      publish_later(cjson.decode(its_note).slot)  -- the oldest first, and all of them now
      note(name, its_note, tonumber(kept))
    end
  end
end
return accepted
