-- Move a certain job that waits into a slot, if it still does. Safe to repeat.
--
-- KEYS[1]  {llama_queue}:active:<w>:<n>   list: the slot
-- KEYS[2]  {llama_queue}:<kind>           list: jobs that wait; beside it lie all of fair.lua's
-- ARGV[1]  the job
-- ARGV[2]  what all the queue's keys begin with, {llama_queue}:, if the list is that of a kind with lines, else empty
-- ARGV[3]  kind
-- ARGV[4]  <w>:<n>
-- ARGV[5]  how many of those that wait are looked at
--
-- Returns 1: moved, or moved before; 0: it does not wait any more, or something else lies in the slot.
local held = redis.call('LINDEX', KEYS[1], -1)
if held then
  return held == ARGV[1] and 1 or 0
end
if ARGV[2] ~= '' then
  return queue_of(ARGV[2], ARGV[3]).pick(KEYS[1], ARGV[4], ARGV[1], tonumber(ARGV[5])) and 1 or 0
end
if redis.call('LREM', KEYS[2], -1, ARGV[1]) == 0 then
  return 0
end
redis.call('LPUSH', KEYS[1], ARGV[1])
return 1
