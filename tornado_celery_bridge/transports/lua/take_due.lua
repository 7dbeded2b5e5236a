-- take_due: takes messages that are due, at most so many of each set, and has them due again later.
-- KEYS: sorted sets.  ARGV: the time until which messages are due; when they are due again; how many.
-- Answers: for each message its set's place, and the message.
local taken = {}
for number, key in ipairs(KEYS) do
    for _, message in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', ARGV[1], 'LIMIT', 0, tonumber(ARGV[3]))) do
        redis.call('ZADD', key, ARGV[2], message)
        taken[#taken + 1] = {number - 1, message}
    end
end
return taken
