-- finish: an attempt has ended the job, or somebody else has (then token is '').
-- An attempt that was given up for lost may have succeeded after all; if it failed, the next one decides. Who is not
-- an attempt does not end a job that runs.
-- KEYS: job:{job_id}, events:{job_id}, value:{job_id}, traceback:{job_id}
-- ARGV: prefix, job_id, state, value, stored, token, traceback, traceparent, result_key, result, result_ttl,
--   exception, detail, place
-- Answers: whether this was the job's end
--   value: JSON of the result or the error; stored: it is that of a blob. traceback: packed, traceparent: '' for none.
--   result_key, result, result_ttl: as for start; not written if another attempt is to end the job. exception, detail,
--   place: of a FAILURE, what was raised, what it said and where; else ''.
-- include: finish, tell
-- include rarely: blobs, tell_end

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'token')
local from = known[1]
if not from then redis.call('DEL', prefix .. 'begun:' .. id) end
if not from or ENDED[from] then
  if not from and not is_forgotten() or from and not rare.results_are_here() then tell(result_key, result, result_ttl) end
  return 0
end
local is_its = token ~= '' and token == known[2]
if not is_its and (token == '' and known[2] and bucket(from) == 'STARTED' or token ~= '' and state ~= 'SUCCESS') then
  return 0
end
tell(result_key, result, result_ttl)
if result_key ~= '' then told = id end
finish(from, state, value, exception ~= '' and exception, detail, place)
if stored ~= '' then
  redis.call('HSET', job, 'stored', 1)
  rare.adopt_blob(cjson.decode(value)[1])
end
if traceback ~= '' then redis.call('SET', prefix .. 'traceback:' .. id, traceback) end
if traceparent ~= '' and redis.call('HEXISTS', job, 'callback') == 1 then
  redis.call('HSET', job, 'traceparent', traceparent)
end
return 1
