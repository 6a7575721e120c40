-- Find out which commands the user may not run. Nothing is run.
--
-- ARGV[1]  JSON: a list of commands, each a list of its words
--
-- Returns the places in the list, from 1 on, of those that are forbidden; none where Redis is older than 7, which
-- cannot be asked.
local forbidden = {}
for place, words in ipairs(redis.acl_check_cmd and cjson.decode(ARGV[1]) or {}) do
  if not redis.acl_check_cmd(unpack(words)) then
    forbidden[#forbidden + 1] = place
  end
end
return forbidden
