-- Give a stream that its writer cannot go on with a last entry all the same, behind whatever others wrote. Safe to repeat.
--
-- KEYS[1]  stream:<id>   stream: everything that happened to the job
-- ARGV[1]  event of the last entry: done or error
-- ARGV[2]  its data, JSON
-- ARGV[3]  life of the stream from now on, in seconds
--
-- Returns 1: the entry was added; 0: a last entry was there.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[2][1] == 'event' and (last[2][2] == 'done' or last[2][2] == 'error') then
  return 0
end
redis.call('XADD', KEYS[1], '*', 'event', ARGV[1], 'data', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
