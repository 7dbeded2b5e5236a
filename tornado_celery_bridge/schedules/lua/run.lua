-- run: accept the due runs of an entry as jobs, and make it due for its next slot, in one step.
-- KEYS: schedule:{name}, schedules:leader, schedules:due, schedules:runs:{name}, schedules:statistics
-- ARGV: prefix, name, leader, version, slot, next_slot, due, failures, held, note_beside, kept, to_cancel, grace,
--   ttl, counted, bounds
-- ROWS: job_id, record, input, message, its_note, since
-- Answers: {fenced} to a beat that does not lead, {changed} if the entry is not as it was; or the ids of the jobs
--   that it accepted
--   next_slot: '' for never. held: whether it waits for its last run. note_beside: what to note beside the runs, '' for
--   nothing. kept: how many notes are kept. to_cancel: a job, '' for none. grace: ms after which its process is ended.
--   ttl: of a job. counted: the last run that failures know of. bounds: by which late runs are counted, between commas.
--   since: when the run could have begun, '' for one that waited for the last run, as that is why it is late.
--   leader: what schedules:leader has while this beat leads.
-- A run that its owner may not begin now is left out, and noted so.
-- include: write, cancel, statistics, notes, allowed, rows

if redis.call('GET', schedules .. ':leader') ~= leader then return {'fenced'} end
local known = redis.call('HMGET', key_of(name), 'version', 'slot')
if known[1] ~= version or known[2] ~= slot then return {'changed'} end

if to_cancel ~= '' then
  turn(to_cancel)
  cancel(false, tonumber(grace))
end
local accepted = {}
if note_beside ~= '' then
  note(name, note_beside, kept)
  tally(cjson.decode(note_beside).why)
end
redis.call('HSET', key_of(name), 'failures', failures, 'counted', counted)
for job_id, record, input, message, its_note, since in rows() do
  turn(job_id)
  -- The slot's job may have been accepted for an entry of this name that was there before.
  local is_new = redis.call('EXISTS', job) == 0 and redis.call('EXISTS', prefix .. 'gone:' .. id) == 0
  local refused = is_new and why_not_run(record)
  if refused then
    local its = cjson.decode(its_note)
    note(name, cjson.encode({slot = its.slot, at = its.at, why = refused}), kept)
    tally(refused)
  elseif is_new then
    write(record, input, ttl, 0, message, '')
    accepted[#accepted + 1] = id
    redis.call('HINCRBY', key_of(name), 'runs', 1)
    redis.call('HSET', key_of(name), 'last', id, 'last_at', now())
    note(name, its_note, kept)
    tally('runs')
    if since ~= '' then count_late(now() - since, bounds) end
  end
end
if held == '' then redis.call('HDEL', key_of(name), 'held') else redis.call('HSET', key_of(name), 'held', 1) end
be_due(name, next_slot, due)
return accepted
