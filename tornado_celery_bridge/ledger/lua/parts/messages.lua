-- messages: what is to be published for a job.
-- include: job

-- Append the job's id and its message, or the message of the workflow that it is part of.
local function add_message(found)
  local message = redis.call('GET', prefix .. 'message:' .. id)
  if not message then
    local workflow = redis.call('HGET', job, 'workflow')
    message = workflow and redis.call('GET', prefix .. 'message:' .. workflow)
  end
  if message then
    found[#found + 1] = id
    found[#found + 1] = message
  end
end
