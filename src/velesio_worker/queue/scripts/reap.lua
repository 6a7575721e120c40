-- Put the jobs of a worker that is lost, or that ends, back to the front of their lists, and strike it off.
--
-- KEYS[1]  {llama_queue}:workers      sorted set: worker -> end of its lease, in seconds
-- KEYS[2]  {llama_queue}:slots:<w>    hash: slot -> the list to whose front its job goes
-- KEYS[3]  {llama_queue}:only:<w>     list: the jobs that name the worker
-- KEYS[4]  llama_queue                list: where those go, to be told that it is gone
-- KEYS[5]  {llama_queue}:worker:<w>   hash: what the worker was and did
-- ARGV[1]  worker id
-- ARGV[2]  end of its lease as the caller saw it: whoever has beaten since then lives
-- ARGV[3]  '1': although its lease runs, since it has missed a beat and has no connection any more, or asks for it
--
-- The slots are named in KEYS[2] and share its hash tag.
--
-- Returns how many jobs were put back; -1: the worker lives, or somebody else was faster.
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends or tonumber(ends) ~= tonumber(ARGV[2]) then
  return -1
end
local now = redis.call('TIME')
if ARGV[3] ~= '1' and tonumber(ends) > tonumber(now[1]) + tonumber(now[2]) / 1000000 then
  return -1
end
local moved = 0
local slots = redis.call('HGETALL', KEYS[2])
for i = 1, #slots, 2 do
  while redis.call('LMOVE', slots[i], slots[i + 1], 'RIGHT', 'RIGHT') do
    moved = moved + 1
  end
end
while redis.call('LMOVE', KEYS[3], KEYS[4], 'LEFT', 'RIGHT') do
  moved = moved + 1
end
redis.call('DEL', KEYS[2], KEYS[5])
redis.call('ZREM', KEYS[1], ARGV[1])
return moved
