#!/bin/sh
# Starts the worker. With LLAMA_BUILD=start llama-server is built first, into data/binaries, if none is there.
set -eu

needs_llama_server() {
    case "${1:-run}" in run) ;; *) return 1 ;; esac
    case "${RUN_LLM:-true}" in [Ff]* | [Nn]* | [Oo][Ff]* | 0) return 1 ;; esac
    [ -z "${LLAMA_SERVER_URL:-}${STARTUP_COMMAND:-}" ]
}

if [ "${LLAMA_BUILD:-image}" = start ] && needs_llama_server "$@"; then
    build-llama-server.sh data/binaries
fi
exec velesio-worker "$@"
