#!/bin/sh
# Runs every fuzz target for the time given (default 1m).
set -eu
: "${GO:=go}"
for f in $(git grep -lE '^func Fuzz' -- '*_test.go'); do
	for target in $(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$f"); do
		echo "== $f $target"
		case $f in
		examples/*) (cd examples && $GO test -run '^$' -fuzz "^$target\$" -fuzztime "${1:-1m}" "./$(dirname "${f#examples/}")") ;;
		*) $GO test -run '^$' -fuzz "^$target\$" -fuzztime "${1:-1m}" "./$(dirname "$f")" ;;
		esac
	done
done
