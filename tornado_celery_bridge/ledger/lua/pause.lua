-- pause: no worker is to take from a queue, from now on, or since it was paused before.
-- KEYS: paused
-- ARGV: prefix, queue
-- Answers: nothing
-- include: clock

redis.call('HSETNX', prefix .. 'paused', queue, now())
