#!/bin/sh
# A job with nothing but redis-cli: pushes it, prints every entry of its stream as it is made, then its result.
#
#     examples/redis-cli.sh "Name three colours."
#
# REDIS_URL says where Redis is (redis://127.0.0.1:6379), QUEUE_NAME what the workers read (llama_queue).
# redis-cli comes with Redis, or alone in Debian's redis-tools.
set -eu

redis() { redis-cli -u "${REDIS_URL:-redis://127.0.0.1:6379}" --raw "$@"; }

question=$(printf %s "${1:-Name three colours.}" | tr '\n\t' '  ' | sed 's/[\\"]/\\&/g')
job="shell-$(date +%s)-$$"

redis LPUSH "${QUEUE_NAME:-llama_queue}" "{\"id\": \"$job\", \"type\": \"chat_completion\", \"data\": {
  \"messages\": [{\"role\": \"user\", \"content\": \"$question\"}], \"max_tokens\": 64, \"stream\": true}}" >/dev/null

# From 0-0, never from $: the first tokens may be there already. Each read goes on behind the last entry, so whoever is
# cut off loses nothing. An empty answer means that nothing came within five seconds: ask again.
after=0-0
while [ "$after" != over ]; do
  entries=$(redis XREAD COUNT 100 BLOCK 5000 STREAMS "stream:$job" "$after" | sed 1d) # its first line names the stream
  # Each entry is five lines: its id, "event", which one, "data", and JSON, which has no line break.
  while read -r id && read -r _ && read -r event && read -r _ && read -r data; do
    printf '%-6s %-8s %s\n' "$id" "$event" "$data"
    after=$id
    case $event in done | error) after=over ;; esac
  done <<END
$entries
END
done

redis GET "result:$job"
