#!/bin/sh
# Four nodes as four processes on loopback run the model over three shards; one of them is killed in the middle. The
# answer is the one that a single machine gives.
#
# usage: swarm.sh OSTRAKON PACKAGE PLUGINS SENTENCES
#   PACKAGE: a directory with a package of three shards
set -eu
ostrakon=$1 package=$2 plugins=$3 sentences=$4
place=$(mktemp -d)
nodes=""
stop() {
	for node in $nodes; do kill -9 "$node" 2>/dev/null || true; done
	rm -rf "$place"
}
trap stop EXIT
trap 'exit 130' INT TERM

# A field of the line that a node prints when it is ready.
field() { sed -n "s/.*\"$1\":\\[*\"\\([^\"]*\\)\".*/\\1/p" "$place/$2.ready"; }

# A run of shards that a node serves.
shards() { echo "{ package = \"$package\", shards = [$1] }"; }

start() { # name, bootstrap, roles, packages
	cat >"$place/$1.toml" <<-END
		operator = "$1"
		roles = [$3]
		bootstrap = [$2]
		plugins = "$plugins"
		http = "127.0.0.1:0"
		threads = 1
		packages = [$4]
		[trust]
		allow_unknown = true
	END
	OSTRAKON_HOME="$place/$1" "$ostrakon" --json node --config "$place/$1.toml" >"$place/$1.ready" 2>"$place/$1.log" &
	nodes="$nodes $!"
	eval "pid_$1=$!"
	for _ in $(seq 600); do
		grep -q ready "$place/$1.ready" && return
		kill -0 "$!" 2>/dev/null || break
		sleep 0.1
	done
	echo "node $1 does not start:" >&2
	cat "$place/$1.log" >&2
	exit 1
}

for _ in $(seq 60); do cat "$sentences"; done >"$place/texts"
echo
echo "One machine, $(wc -l <"$place/texts") sentences:"
alone=$("$ostrakon" run "$package" --allow-unknown-signer --input "$place/texts" | sed -n 's/^digest *//p')
echo "digest   $alone"

start alice '' '"scheduling", "execution", "verification"' "$(shards '"shard-0", "shard-1", "shard-2"')"
first="\"$(field addresses alice)\""
start bob "$first" '"execution", "participation"' "$(shards '"shard-0", "shard-1"')"
start carol "$first" '"execution", "verification"' "$(shards '"shard-1", "shard-2"')"
start dave "$first" '"execution"' "$(shards '"shard-0"'), $(shards '"shard-2"')"
swarm=$(field addresses alice)
echo
echo "Four nodes on loopback, three shards, two of three nodes must agree on every one:"
"$ostrakon" status --swarm "$swarm"

# As soon as dave has computed something, it is killed.
http=$(field http dave)
(
	while :; do
		done=$(python3 -c "import urllib.request as r; print(r.urlopen('http://$http/metrics').read().decode())" |
			sed -n 's/^ostrakon_forwards_total \([0-9]*\).*/\1/p')
		[ "${done:-0}" -ge 2 ] && break
	done
	kill -9 "$pid_dave"
	touch "$place/killed"
) 2>/dev/null &
nodes="$nodes $!"
"$ostrakon" run "$package" --allow-unknown-signer --swarm "$swarm" --verify quorum:2/3 --input "$place/texts" \
	--receipt "$place/receipt" --plan "$place/plan" >"$place/answer"
sed -n '/^plan$/,$p' "$place/answer"
test -f "$place/killed" || { echo "dave was not killed in the middle" >&2; exit 1; }
echo "dave was killed in the middle."
grep -q "^digest *$alone$" "$place/answer" || { echo "the swarm gave another digest" >&2; exit 1; }
echo
echo "The digest is the same. What anybody can check of it:"
"$ostrakon" audit "$place/receipt" --package "$package" --allow-unknown-signer
"$ostrakon" audit --plan "$place/plan"
