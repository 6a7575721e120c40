-- Add a part of a large result to those before it. Safe to repeat.
--
-- KEYS[1]  {result:<id>}:parts:<attempt>  string: the result, as far as it was sent
-- ARGV[1]  how many bytes come before the part
-- ARGV[2]  the part
-- ARGV[3]  life of the parts, in seconds
--
-- Returns 1: it is there; 0: what comes before it is not, a failover lost it.
local before = tonumber(ARGV[1])
if before == 0 then
  redis.call('SETEX', KEYS[1], ARGV[3], ARGV[2])
  return 1
end
local there = redis.call('STRLEN', KEYS[1])
if there < before then
  return 0
end
if there == before then
  redis.call('APPEND', KEYS[1], ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return 1
