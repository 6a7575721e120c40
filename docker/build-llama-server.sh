#!/bin/sh
# Builds llama.cpp's llama-server into a folder, unless one is there:
#
#     docker/build-llama-server.sh data/binaries
#
# With CUDA where nvcc is on PATH, else for the CPU. An image's build, a container's first start and a bare host all run it.
# It needs python3 with venv and a C++ compiler. The source (MIT, in the sdist of llama-cpp-python), CMake and Ninja
# are pinned by hash in requirements/. Variables that change what it does:
#
#     CUDA_ARCHITECTURES  the GPUs to build for, as CMake writes them: 80 or "86-real;89-real"
#     GGML_CUDA           ON or OFF; default: ON where nvcc is on PATH
#     GGML_NATIVE         ON: for this very CPU. Default OFF: for any x86-64 with AVX2
#     BUILD_JOBS          compilers at a time; default: one a core
#     LLAMA_KIT           source and tools that `--fetch FOLDER` got before: nothing is downloaded then
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
work=
part=

say() { echo "==> $*"; }
fail() { echo "llama-server was not built: $*" >&2; exit 1; }
tidy() { rm -rf ${work:+"$work"} ${part:+"$part"}; }
trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Into the folder $1: tools (CMake and Ninja) and source (llama.cpp).
fetch() {
    say "fetching CMake, Ninja and llama.cpp's source (about 110 MB)"
    python3 -m venv "$1/tools" || fail "python3 has no venv module: apt install python3-venv"
    kit=$1
    set -- "$kit/tools/bin/python" -m pip --quiet --no-cache-dir --disable-pip-version-check
    "$@" install --require-hashes --no-deps --only-binary :all: -r "$root/requirements/sd-build.txt" \
        || fail "CMake and Ninja could not be fetched; see above"
    "$@" download --require-hashes --no-deps --no-binary :all: --no-build-isolation --dest "$kit" \
        -r "$root/requirements/llama-server.txt" || fail "the source could not be fetched; see above"
    for archive in "$kit"/*.tar.gz; do
        mkdir "$kit/source"
        tar -xzf "$archive" -C "$kit/source" --strip-components 3 "$(basename "$archive" .tar.gz)/vendor/llama.cpp"
        rm "$archive"
    done
}

# Turing and newer; GPUs that come after Hopper and are not listed compile what they need from 90's PTX.
default_architectures() {
    newest=
    # shellcheck disable=SC2046 # two words: major and minor
    set -- $(nvcc --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p') 0 0
    if [ "$1" -gt 12 ] || { [ "$1" -eq 12 ] && [ "$2" -ge 8 ]; }; then newest=";120a-real"; fi
    echo "75-real;80-real;86-real;89-real;90$newest"
}

# What is built, in a line; it lies beside the binary.
describe() {
    pinned=$(sed -n 's/ *\\$//; s/^llama-cpp-python/&/p' "$root/requirements/llama-server.txt")
    if [ "$cuda" = ON ]; then echo "$pinned CUDA $architectures"; else echo "$pinned CPU"; fi
}

# From the kit $1, in the folder $2.
compile() {
    PATH="$1/tools/bin:$PATH"
    command -v cmake >/dev/null || fail "cmake is not on PATH: apt install cmake ninja-build"
    kit=$1 objects=$2
    set -- -S "$kit/source" -B "$objects" -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS=-w -DCMAKE_CXX_FLAGS=-w \
        -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE="${GGML_NATIVE:-OFF}" -DGGML_CCACHE=OFF -DGGML_CUDA="$cuda" \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF # the page would be downloaded
    if [ "$cuda" = ON ]; then # the driver's library is there at run time only; NCCL is not in every image
        set -- "$@" -DCMAKE_CUDA_ARCHITECTURES="$architectures" -DCMAKE_CUDA_FLAGS=-w -DGGML_CUDA_NCCL=OFF \
            -DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined
    fi
    if command -v ninja >/dev/null; then set -- -G Ninja "$@"; fi
    remedy=
    if [ "$cuda" = ON ]; then
        remedy=". CUDA's headers and cuBLAS have to be there beside nvcc; without them set GGML_CUDA=OFF, for the CPU"
    fi
    cmake "$@" || fail "CMake refused; see above$remedy"
    jobs=${BUILD_JOBS:-$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)}
    cmake --build "$objects" --target llama-server --parallel "$jobs" \
        || fail "the compiler failed; see above. Killed means out of memory: set BUILD_JOBS lower than $jobs"
}

if [ "${1:-}" = --fetch ] && [ $# -eq 2 ]; then
    mkdir -p "$2"
    fetch "$(cd "$2" && pwd)"
    exit
fi
[ $# -eq 1 ] || { echo "usage: $0 FOLDER | --fetch FOLDER" >&2; exit 2; }

cuda=${GGML_CUDA:-$(command -v nvcc >/dev/null && echo ON || echo OFF)}
if [ "$cuda" = ON ]; then
    command -v nvcc >/dev/null || fail "nvcc is not on PATH: add the CUDA toolkit's bin folder, or set GGML_CUDA=OFF"
    architectures=${CUDA_ARCHITECTURES:-$(default_architectures)}
fi
binary=$1/llama-server

stop_if_there() {
    [ -e "$binary" ] || return 0
    if [ -e "$binary.built" ] && [ "$(cat "$binary.built")" != "$(describe)" ]; then
        say "$binary is of $(cat "$binary.built"); remove it to have one of $(describe)"
    else
        say "$binary is there"
    fi
    exit 0
}

stop_if_there
if ! mkdir -p "$1" 2>/dev/null || ! [ -w "$1" ]; then
    fail "user $(id -u) may not write into $1: chown $(id -u) $1"
fi
if command -v flock >/dev/null; then # two containers may start at once on one folder
    exec 9>"$1/.llama-server.lock"
    flock --nonblock 9 || { say "somebody else builds $binary; waiting"; flock 9; }
    stop_if_there
fi
command -v "${CXX:-c++}" >/dev/null || fail "there is no C++ compiler: apt install g++"

work=$(mktemp -d)
kit=${LLAMA_KIT:-$work/kit}
[ -n "${LLAMA_KIT:-}" ] || fetch "$kit"
say "building llama-server of $(describe) into $1"
compile "$kit" "$work/objects"
if [ "$cuda" = OFF ]; then # with CUDA it needs the driver, which the build of an image has not
    "$work/objects/bin/llama-server" --version >/dev/null 2>&1 || fail "what was built does not start on this CPU"
fi
# The name must never be that of half a file: another container's worker may start it at any moment.
part=$(mktemp "$1/.llama-server.XXXXXX")
cp "$work/objects/bin/llama-server" "$part"
chmod 755 "$part"
cp "$kit/source/LICENSE" "$binary.LICENSE"
describe > "$binary.built"
mv "$part" "$binary"
say "$binary is ready"
