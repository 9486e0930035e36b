#!/bin/sh
# Runs wasmtime's own wasi-nn guests, unchanged, on our host. usage: run.sh WASMTIME_CHECKOUT [OSTRAKON_HOME]
# Nothing of theirs is kept here: give a checkout of https://github.com/bytecodealliance/wasmtime. The engines of
# `make bench` must be there (they make the models), and OpenVINO as `make setup` fetches it.
set -eu
upstream=$1
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
openvino=${2:-$root/build/home/data}/openvino
work=$root/build/stock-guests
mkdir -p "$work/fixtures" "$work/crates/test-programs" "$work/crates/wasi-nn"
cp -r "$upstream/crates/wasi-nn/wit" "$work/crates/wasi-nn/"
cp -r "$upstream/crates/test-programs/src" "$work/crates/test-programs/"
"$root/build/peers/venv/bin/python" "$here/fixtures.py" "$upstream/crates/wasi-nn/tests/fixtures" "$work/fixtures"

# Their programs in a manifest of their own: the workspace they come from builds everything else as well.
guests="nn_wit_image_classification_onnx nn_wit_image_classification_openvino nn_wit_image_classification_openvino_named"
{
    printf '[workspace]\n[package]\nname = "test-programs"\nversion = "0.0.0"\nedition = "2024"\nautobins = false\nbuild = false\n'
    printf '[lib]\npath = "nn.rs"\n[dependencies]\nanyhow = "1"\nwasi-nn = "0.6"\nwit-bindgen = "0.61"\n'
    for guest in $guests; do printf '[[bin]]\nname = "%s"\npath = "src/bin/%s.rs"\n' "$guest" "$guest"; done
} > "$work/crates/test-programs/Cargo.toml"
echo '#[path = "src/nn.rs"] pub mod nn;' > "$work/crates/test-programs/nn.rs"
rustup target add wasm32-wasip2
(cd "$work/crates/test-programs" && cargo build -q --release --target wasm32-wasip2)
cargo build -q --release --manifest-path "$here/Cargo.toml" --target-dir "$work/target"
for guest in $guests; do
    echo "== $guest"
    "$work/target/release/stock-guests" "$work/crates/test-programs/target/wasm32-wasip2/release/$guest.wasm" "$work/fixtures" "$openvino"
done
