-- quarantine: set an entry aside that cannot be used.
-- KEYS: schedule:{name}, schedules:leader, schedules:due, schedules:quarantined
-- ARGV: prefix, name, leader, why
-- Answers: whether it is
--   leader: what schedules:leader has while this beat leads.
-- include: schedules

if redis.call('GET', schedules .. ':leader') ~= leader then return 0 end
redis.call('ZREM', schedules .. ':due', name)
if redis.call('EXISTS', key_of(name)) == 0 then return 0 end
redis.call('SADD', schedules .. ':quarantined', name)
redis.call('ZADD', schedules, 0, name)
redis.pcall('HSET', key_of(name), 'quarantined', why)
return 1
