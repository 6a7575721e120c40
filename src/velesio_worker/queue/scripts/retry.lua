-- Put a dead letter's job back to the end of the incoming list. Safe to repeat: a letter that is gone puts nothing
-- back, and copies of it, the same to the last byte, count as one letter.
--
-- KEYS[1]  {llama_queue}:dead   list: the dead letters
-- KEYS[2]  llama_queue          list: where producers push to
-- ARGV[1]  the dead letter
-- ARGV[2]  its job
--
-- Returns how many copies of the letter there were.
if not redis.call('LPOS', KEYS[1], ARGV[1]) then
  return 0
end
-- First, since it alone may fail (WRONGTYPE, OOM): then the letter stays.
redis.call('LPUSH', KEYS[2], ARGV[2])
return redis.call('LREM', KEYS[1], 0, ARGV[1])
