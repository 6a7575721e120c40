#!/bin/sh
# Checks that the folder $1 has a llama-server that this image can start; Dockerfile.lite is built with it.
set -eu

fail() { echo "data/binaries/llama-server $*" >&2; exit 1; }

binary=$1/llama-server
[ -e "$binary" ] || fail "is missing: build it (docker/build-llama-server.sh data/binaries) or copy yours there, then build this image again"
[ "$(head -c 4 "$binary" | tail -c 3)" = ELF ] || fail "is no Linux program: it must be llama-server itself"
chmod 755 "$binary"
# The GPU driver's library comes with the host, when a container starts.
missing=$(ldd "$binary" 2>&1 | grep 'not found' | grep -v libcuda.so.1 || true)
[ -z "$missing" ] || fail "needs what this image has not; put those .so files beside it, or build it for this image:
$missing"
