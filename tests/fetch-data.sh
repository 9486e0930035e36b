#!/bin/sh
# Fetches texts that tests read and that are not ours to commit. usage: fetch-data.sh DIRECTORY
# Fifty news texts with human similarity scores (Lee and others, 2005), from the PyPI package gensim.
set -eu
out=$1
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download -q --no-deps --only-binary=:all: -d "$work" gensim==4.4.0
python3 -m zipfile -e "$work"/gensim-4.4.0-*.whl "$work/gensim"
cp "$work/gensim/gensim/test/test_data/similarities0-1.txt" "$work/gensim/gensim/test/test_data/lee.cor" "$out"
