#!lua flags=allow-oom
-- take: takes messages from queues, and notes them as taken.
-- KEYS: unacked, its index; then for each priority step, most urgent first, a list for each queue.
-- ARGV: messages at most; the time; whether queues take turns; then for each queue whether its messages are noted.
-- Answers: for each message the queue's place, the tag if it was noted, and the message.
--
-- A note is what `kombu.transport.redis.QoS.append` writes, around the message's own bytes: numbers and depth that Lua
-- can't hold stay as they are. A message is noted before it is popped, so an error leaves it in its queue. A message
-- that can't be noted here is taken alone: nobody acknowledges it, or Lua can't read it (then `append` notes it).
-- allow-oom: a full server lets its queues be emptied.
local most, now, turns, queues = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1', #ARGV - 3

-- The end of a message as kombu writes it. Each quote in it is one of JSON's own, as none has a backslash before it, and
-- the two braces close the properties and the message. To read all of a message takes Lua ten times as long.
local INFO = ', "delivery_info": {"exchange": "'
local TAIL = '^' .. INFO .. '([^"\\]*)", "routing_key": "([^"\\]*)"}, "priority": %d+, "body_encoding": "base64", ' ..
    '"delivery_tag": "([^"\\]*)"}}$'

local function read(message)
    local start = string.find(message, INFO, math.max(1, #message - 400), true)
    if start then
        local exchange, routing_key, tag = string.match(message, TAIL, start)
        if tag then
            return tag, '[' .. message .. ', "' .. exchange .. '", "' .. routing_key .. '"]'
        end
    end
    local properties = cjson.decode(message).properties
    local info, tag = properties.delivery_info, properties.delivery_tag
    assert(type(tag) == 'string')
    return tag, '[' .. message .. ', ' .. cjson.encode(info.exchange) .. ', ' .. cjson.encode(info.routing_key) .. ']'
end

local taken, order = {}, {}
for queue = 1, queues do
    order[queue] = queue
end
for step = 3, #KEYS, queues do
    local found
    repeat
        found = false
        for place, queue in ipairs(order) do
            local list = KEYS[step + queue - 1]
            local message = redis.call('LINDEX', list, -1)
            if message then
                local noted, tag, note = false, nil, nil
                if ARGV[3 + queue] == '1' then
                    noted, tag, note = pcall(read, message)
                end
                if noted then
                    redis.call('ZADD', KEYS[2], now, tag)
                    redis.call('HSET', KEYS[1], tag, note)
                elseif #taken > 0 then
                    return taken
                end
                redis.call('RPOP', list)
                taken[#taken + 1] = {queue - 1, noted and tag or false, message}
                if not noted or #taken == most then
                    return taken
                end
                if turns then
                    table.insert(order, table.remove(order, place))
                end
                found = true
                break
            end
        end
    until not found
end
return taken
