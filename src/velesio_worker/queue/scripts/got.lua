-- Take note of a job that a worker got from a list and not from fair.lua's lines. Safe to repeat.
--
-- KEYS[1]  {llama_queue}:running:<kind>   hash: <w>:<n> -> when its job was taken, and more; beside it lie all of fair.lua's
-- ARGV[1]  what all the queue's keys begin with, {llama_queue}:
-- ARGV[2]  kind
-- ARGV[3]  <w>:<n>
-- ARGV[4]  worker id: it does not wait any more
-- ARGV[5]  priority
-- ARGV[6]  tenant
-- ARGV[7]  what the job is estimated to cost
-- ARGV[8]  its session, in hexadecimal digits; empty for none
local queue = queue_of(ARGV[1], ARGV[2])
pcall(queue.got, ARGV[3], ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8])
pcall(queue.waits, ARGV[4], false)
return 1
