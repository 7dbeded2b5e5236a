-- announce: a blob is about to be written. If no job adopts it, it is removed after grace ms.
-- KEYS: blobs
-- ARGV: prefix, blob, grace
-- Answers: nothing
-- include: clock

redis.call('ZADD', prefix .. 'blobs', now() + grace, blob)
