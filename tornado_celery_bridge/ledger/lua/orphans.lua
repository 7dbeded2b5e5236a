-- orphans: blobs that belong to no job and are to be removed now.
-- KEYS: blobs
-- ARGV: prefix, most
-- Answers: names
-- include: clock

return redis.call('ZRANGEBYSCORE', prefix .. 'blobs', '-inf', now(), 'LIMIT', 0, most)
