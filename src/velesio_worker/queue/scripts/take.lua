-- Move the next job of one kind into a slot, by priority and by what each tenant has had. Safe to repeat.
--
-- KEYS[1]  {llama_queue}:active:<w>:<n>   list: the slot
-- KEYS[2]  {llama_queue}:<kind>           list: the jobs without priority and tenant; beside it lie all of fair.lua's
-- ARGV[1]  what all the queue's keys begin with, {llama_queue}:
-- ARGV[2]  kind
-- ARGV[3]  <w>:<n>
--
-- Returns {the job, 1 if it is one that goes on with what the worker's engine has read, else 0; -1 for what lay in the slot
-- and was not begun from here}; false: none waits, and the slot counts as one that waits.
local queue = queue_of(ARGV[1], ARGV[2])
local held = redis.call('LINDEX', KEYS[1], -1)
if held then
  return {held, queue.begun(ARGV[3]) and 0 or -1}
end
local job, is_warm = queue.take(KEYS[1], ARGV[3])
queue.waits(ARGV[3], not job)
return job and {job, is_warm and 1 or 0}
