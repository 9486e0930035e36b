#!/bin/sh
# Clients that nobody here wrote, against a server of two packages. They are installed into build/peers.
# usage: clients.sh OSTRAKON WRITER EMBEDDER   (packages' directories)
# CLIENTS names some of: python javascript harness schemathesis load (all without it).
set -eu
ostrakon=$1 writer=$2 embedder=$3
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "$here/../../build" && pwd)
work=$build/peers/clients
clients=${CLIENTS:-python javascript harness schemathesis load}
mkdir -p "$work"

wants() { case " $clients " in *" $1 "*) true ;; *) false ;; esac; }

# Once for each list of packages.
python_with() {
    name=$1
    shift
    if [ "$(cat "$work/$name.ready" 2>/dev/null)" != "$*" ]; then
        python3 -m venv "$work/$name"
        "$work/$name/bin/pip" install -q "$@"
        echo "$*" >"$work/$name.ready"
    fi
}
wants python && python_with openai "openai==3.54.0"
wants harness && python_with lm-eval "lm_eval[api]==0.4.13" "transformers==5.23.0"
wants schemathesis && python_with schemathesis "schemathesis==4.32.5"
if wants javascript && [ ! -d "$work/javascript/node_modules/openai" ]; then
    mkdir -p "$work/javascript"
    (cd "$work/javascript" && npm init -y >/dev/null && npm install --silent --no-audit --no-fund openai@7.57.0)
fi

"$ostrakon" serve "$writer" "$embedder" --listen 127.0.0.1:0 --allow-unknown-signer --json >"$work/ready.json" 2>"$work/server.log" &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT INT TERM
for _ in $(seq 600); do
    [ -s "$work/ready.json" ] && break
    kill -0 $server 2>/dev/null || { cat "$work/server.log" "$work/ready.json" >&2; exit 1; }
    sleep 0.1
done
ask() { python3 -c "import json; ready = json.load(open('$work/ready.json')); print($1)"; }
url=$(ask '"http://" + ready["address"]')
first=$(ask '[m["name"] for m in ready["models"] if m["task"] == "generation"][0]')
second=$(ask '[m["name"] for m in ready["models"] if m["task"] == "embedding"][0]')

wants python && "$work/openai/bin/python" "$here/openai_python.py" "$url/v1" "$first" "$second"
if wants javascript; then
    cp "$here/openai_javascript.mjs" "$work/javascript/"
    node "$work/javascript/openai_javascript.mjs" "$url/v1" "$first" "$second"
fi
wants harness && HF_HUB_OFFLINE=1 HF_HOME="$work/hub" "$work/lm-eval/bin/python" "$here/harness.py" \
    "$url/v1" "$first" "$writer" "$work/harness" "$build/data/lee.cor" 2>"$work/harness.log"
# What a request means is beyond its description: that a prompt fits the context, for example. So one check is left out: that
# whatever the description allows is answered.
# It keeps notes where it runs.
wants schemathesis && (cd "$work" && schemathesis/bin/st run "$url/openapi.json" --checks all \
    --exclude-checks positive_data_acceptance --max-examples "${EXAMPLES:-40}" --request-timeout 60 --seed 1 \
    --phases examples,coverage,fuzzing)
kill -TERM $server
wait $server
if wants load; then python3 "$here/load.py" "$ostrakon" "$writer" "$embedder"; fi
