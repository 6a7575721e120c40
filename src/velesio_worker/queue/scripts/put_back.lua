-- Move the job in a slot back to the front of the line that it was taken from. Safe to repeat.
--
-- KEYS[1]  {llama_queue}:active:<w>:<n>   list: the slot
-- KEYS[2]  {llama_queue}:<kind>           list: where it goes if it was not taken from a line; beside it lie fair.lua's
-- ARGV[1]  what all the queue's keys begin with, {llama_queue}:
-- ARGV[2]  kind
-- ARGV[3]  <w>:<n>
--
-- Returns 1: it did; 0: there was none.
if redis.call('LLEN', KEYS[1]) == 0 then
  return 0
end
local sound, was = pcall(queue_of(ARGV[1], ARGV[2]).put_back, KEYS[1], ARGV[3])
if not (sound and was) then
  redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'RIGHT')
end
return 1
