-- Whether a worker's lease runs, by Redis's own clock.
--
-- KEYS[1]  {llama_queue}:workers   sorted set: worker -> end of its lease, in seconds
-- ARGV[1]  worker id
--
-- Returns 1 or 0.
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends then
  return 0
end
local now = redis.call('TIME')
return (tonumber(ends) > tonumber(now[1]) + tonumber(now[2]) / 1000000) and 1 or 0
