-- Have a job stopped that has not ended. Safe to repeat.
--
-- KEYS[1]  {result:<id>}:job   hash: the job's state
-- KEYS[2]  result:<id>         string: the job's result
-- ARGV[1]  '1': ask for it; '0': see whether somebody has, who wrote the flag by hand
-- ARGV[2]  life of the hash, in seconds, if it has none yet
--
-- Returns 1: the job is to be stopped; 0: it has ended, and no flag is left, or nobody asked.
--
-- Once a result has expired, whoever asks means the next job of that id: its life begins here, so that the claim can
-- tell this flag from one that came while the result was there, and that the claim drops.
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HDEL', KEYS[1], 'cancel')
  return 0
end
if ARGV[1] == '1' then
  redis.call('HSET', KEYS[1], 'cancel', 1)
elseif redis.call('HGET', KEYS[1], 'cancel') ~= '1' then
  return 0
end
if redis.call('HEXISTS', KEYS[1], 'finished_by') == 1 then
  redis.call('HSET', KEYS[1], 'base', redis.call('HGET', KEYS[1], 'attempt'), 'returned', 0)
  redis.call('HDEL', KEYS[1], 'finished_by', 'finished_at')
end
if redis.call('TTL', KEYS[1]) < 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return 1
