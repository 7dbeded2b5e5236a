-- statistics: numbers for monitors.
-- KEYS: schedules, schedules:statistics
-- ARGV: prefix
-- Answers: how many entries, static ones, and quarantined ones; the leader or ''; how many leaders there were; for how
-- many ms the first entry that is due has been; the counters
-- include: clock, schedules

local first = redis.call('ZRANGE', schedules .. ':due', 0, 0, 'WITHSCORES')[2]
return {
  redis.call('ZCARD', schedules),
  redis.call('SCARD', schedules .. ':static') - redis.call('SISMEMBER', schedules .. ':static', '-'),
  redis.call('SCARD', schedules .. ':quarantined'),
  redis.call('GET', schedules .. ':leader') or '',
  redis.call('GET', schedules .. ':fence') or 0,
  first and math.max(0, now() - first) or 0,
  redis.call('HGETALL', schedules .. ':statistics'),
}
