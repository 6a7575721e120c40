-- Take note of a job that a worker got from a list and not from fair.lua's lines. Safe to repeat.
--
-- KEYS[1]  {llama_queue}:running:<kind>   hash: <w>:<n> -> when its job was taken, and more; beside it lie all of fair.lua's
-- ARGV[1]  what all the queue's keys begin with, {llama_queue}:
-- ARGV[2]  kind
-- ARGV[3]  <w>:<n>
-- ARGV[4]  priority
-- ARGV[5]  tenant
-- ARGV[6]  what the job is estimated to cost
-- ARGV[7]  its session, in hexadecimal digits; empty for none
pcall(queue_of(ARGV[1], ARGV[2]).got, ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7])
return 1
