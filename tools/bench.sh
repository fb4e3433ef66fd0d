#!/bin/sh
# The measurements: one line a Go benchmark. What counts are the ratios and
# counts; times are of this machine at this moment.
set -u
: "${GO:=go}"
status=0
for dir in $(git grep -l '^func Benchmark' -- '*_test.go' | grep -v '^examples/' | xargs -n1 dirname | sort -u); do
	echo "== $dir"
	out=$($GO test -run '^$' -bench "${BENCH:-.}" -benchtime "${BENCHTIME:-1x}" -timeout 20m "./$dir" 2>&1) || status=1
	echo "$out" | grep -vE '^(goos|goarch|pkg|cpu|PASS|ok)'
done
exit $status
