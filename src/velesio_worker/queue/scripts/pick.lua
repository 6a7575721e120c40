-- Move a certain job from a list into a slot, if it still waits there. Safe to repeat.
--
-- KEYS[1]  {llama_queue}:image            list: jobs that wait
-- KEYS[2]  {llama_queue}:active:<w>:<n>   list: the slot
-- ARGV[1]  the job
--
-- Returns 1: moved, or moved before; 0: it does not wait any more, or something else lies in the slot.
local held = redis.call('LINDEX', KEYS[2], -1)
if held then
  return held == ARGV[1] and 1 or 0
end
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then
  return 0
end
redis.call('LPUSH', KEYS[2], ARGV[1])
return 1
