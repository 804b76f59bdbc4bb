#!/bin/sh
# Builds the servers that the benchmarks compare against into a folder (default ./.peers): llama-server,
# llama-batched-bench and the example server, all from the llama-cpp-python sdist of the installed version.
# usage: benchmarks/build_peers.sh [FOLDER]      environment: PYTHON (default python3), JOBS (default 1)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-.peers}"
out=$(cd "${1:-.peers}" && pwd)
python=${PYTHON:-python3}

version=$("$python" -c 'from importlib.metadata import version; print(version("llama-cpp-python"))')
site=$("$python" -c 'import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec("llama_cpp").origin).parents[1])')
source="$out/llama_cpp_python-$version"

if [ ! -d "$source" ]; then
    archive="$out/llama_cpp_python-$version.tar.gz"
    if [ ! -f "$archive" ]; then
        "$python" -m pip download --no-deps --no-binary llama-cpp-python --dest "$out" "llama-cpp-python==$version"
    fi
    tar -xzf "$archive" -C "$out"
fi

cmake -S "$here/peer_build" -B "$out/build" -DCMAKE_BUILD_TYPE=Release \
    -DLLAMA_SOURCE="$source/vendor/llama.cpp" -DSITE_PACKAGES="$site"
nice -n 19 cmake --build "$out/build" --parallel "${JOBS:-1}"

cp "$out/build/llama-server" "$out/build/llama-batched-bench" "$out/"
cp "$source/examples/server/server.py" "$out/example_server.py"

# The peers are fair only on the installed libllama.
for tool in llama-server llama-batched-bench; do
    if command -v ldd >/dev/null && ! ldd "$out/$tool" | grep -q "libllama.so.* => $site/llama_cpp/lib/"; then
        echo "$tool does not use $site/llama_cpp/lib/libllama.so" >&2
        exit 1
    fi
done
echo "built into $out"
