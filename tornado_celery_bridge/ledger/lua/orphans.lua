-- orphans: the names of blobs that are to be removed now.
-- KEYS: blobs
-- ARGV: prefix, most
-- Answers: names
-- include: clock

local prefix, most = unpack(ARGV)

return redis.call('ZRANGEBYSCORE', prefix .. 'blobs', '-inf', now(), 'LIMIT', 0, most)
