-- Give up an attempt, so that the job can be claimed again. Safe to repeat.
--
-- KEYS[1]  {result:<id>}:job   hash: the job's state
-- ARGV[1]  worker id
-- ARGV[2]  attempt
-- ARGV[3]  '1': handed back in good order, which does not count against max_attempts
-- ARGV[4]  '1': an engine was lost while it read the job's request
--
-- Returns 1: released; 0: the caller did not own the attempt (any more).
local state = redis.call('HMGET', KEYS[1], 'owner', 'attempt', 'returned')
if state[1] ~= ARGV[1] or state[2] ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], 'owner', 'slot', 'nonce')
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[1], 'returned', (count(state[3], 0) or 0) + 1)
end
if ARGV[4] == '1' then
  redis.call('HSET', KEYS[1], 'suspect', 1)
end
return 1
