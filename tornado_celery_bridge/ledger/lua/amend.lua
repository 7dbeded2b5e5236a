-- amend: change a job that waits: when, where and with what it runs, or whether it is held back. A message that was
-- published for it before begins nothing any more: it has another version.
-- KEYS: job:{job_id}, message:{job_id}, input:{job_id}, events:{job_id}, later, outbox
-- ARGV: prefix, job_id, expected, version, retries, message, queue, priority, options, input, due, is_eta, held, told
-- Answers: amended | gone | changed (the message is another than expected, by its SHA-1) | begun | step (of a workflow) |
--   unique, or the state in which the job has ended
--   version: of the message, which has this many retries behind it. queue, priority: where it goes, priority '' for none.
--   options: JSON, as a retry of the job would be submitted with. input: '' as it was. due: ms since 1970, '' as it was.
--   is_eta: whether somebody has asked for that time. held: '1' from now on, '0' no more, '' as it was. told: JSON of
--   what is changed, for the events.
-- include: queues, limits, copies, wake, events, blobs

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'handed_on', 'nesting', 'workflow', 'attempt', 'due', 'on_hold', 'parked',
  'unique')
local state = known[1]
if not state then return 'gone' end
if ENDED[state] then return state end
if known[4] then return 'step' end
if bucket(state) == 'STARTED' or known[2] or known[3] or input ~= '' and tonumber(known[5] or 0) > 0 then return 'begun' end
if redis.sha1hex(redis.call('GET', prefix .. 'message:' .. id) or '') ~= expected then return 'changed' end
if input ~= '' and known[9] then return 'unique' end
local packed, time = pack(id), now()
dequeued()
arrived()
for _, name in ipairs({'later', 'outbox'}) do redis.call('ZREM', prefix .. name, packed) end
if known[8] then
  redis.call('ZREM', prefix .. 'parked:' .. known[8], packed)
  redis.call('HDEL', job, 'parked')
  drop_unused(known[8])
end
redis.call('SET', prefix .. 'message:' .. id, message)
redis.call('HSET', job, 'version', version, 'version_of', retries)
redis.call('HDEL', job, 'delayed')
if options ~= '{}' then redis.call('HSET', job, 'options', options) end
goes_to(queue, priority)
if priority == '' then redis.call('HDEL', job, 'priority') else redis.call('HSET', job, 'priority', priority) end
if input ~= '' then
  redis.call('SET', prefix .. 'input:' .. id, input)
  local blob = string.match(input, '^"(.*)"$')
  if blob then adopt_blob(blob) end
end
if due ~= '' then
  known[6] = due
  redis.call('HSET', job, 'due', due)
  if is_eta ~= '' then redis.call('HSET', job, 'eta', due) else redis.call('HDEL', job, 'eta') end
end
if held == '1' then redis.call('HSET', job, 'on_hold', 1) elseif held == '0' then redis.call('HDEL', job, 'on_hold') end
if held == '1' or held == '' and known[7] then
  release()
else
  publish_later(math.max(time, tonumber(known[6] or time)))
end
emit('changed', told)
return 'amended'
