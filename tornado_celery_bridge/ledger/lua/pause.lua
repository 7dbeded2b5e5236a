-- pause: note that no worker is to take from a queue. If it is paused already, since when stays.
-- KEYS: paused
-- ARGV: prefix, queue
-- Answers: nothing
-- include: clock

redis.call('HSETNX', prefix .. 'paused', queue, now())
