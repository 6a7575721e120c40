-- Remove what counts as running of workers that are struck off. Their jobs have been put back, by whoever did that; but a
-- worker of an older release knows nothing of these keys. Safe to repeat.
--
-- KEYS[1]  {llama_queue}:workers          sorted set: worker -> end of its lease
-- KEYS[2…] {llama_queue}:running:<kind>   hashes: <w>:<n> -> when its job was taken, and more
-- ARGV[1]  about how many of each are looked at
-- ARGV[2…] for each hash, where the last look ended
--
-- Returns where this look has ended in each; '0': at its end.
local ends = {}
for i = 2, #KEYS do
  local page = redis.call('HSCAN', KEYS[i], ARGV[i], 'COUNT', ARGV[1])
  for at = 1, #page[2], 2 do
    local worker = string.match(page[2][at], '^([^:]*):')
    if not worker or not redis.call('ZSCORE', KEYS[1], worker) then
      redis.call('HDEL', KEYS[i], page[2][at])
    end
  end
  ends[#ends + 1] = page[1]
end
return ends
