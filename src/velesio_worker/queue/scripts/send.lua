-- Move the job in a slot to the end of its tenant's line. Safe to repeat: an empty slot has been seen to.
--
-- KEYS[1]  {llama_queue}:active:<w>:<n>   list: the slot
-- KEYS[2]  {llama_queue}:<kind>           list: the jobs without priority and tenant; beside it lie all of fair.lua's
-- ARGV[1]  what all the queue's keys begin with, {llama_queue}:
-- ARGV[2]  kind
-- ARGV[3]  priority
-- ARGV[4]  tenant
-- ARGV[5]  what the job is estimated to cost
-- ARGV[6]  its session, in hexadecimal digits; empty for none
-- ARGV[7]  for how long it may be kept for the worker whose engine has read that, although others are free; in seconds
-- ARGV[8]  the model that the job asks for; empty for none in particular
--
-- Returns the worker that it is kept for; false if it is not.
local queue = queue_of(ARGV[1], ARGV[2])
return queue.put(KEYS[1], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], 'LEFT', tonumber(ARGV[7]), ARGV[8]) or false
