#!/bin/sh
# Runs the tests of the modules in the folders named, prints each package's
# `go test` line and the output of what failed, and fails when a test failed
# or was skipped.
set -u
: "${GO:=go}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
run() { # run FOLDER ARGS...
	(cd "$1" && shift && $GO test -count=1 -timeout 25m -v "$@") >"$log" 2>&1 || status=1
	grep -E '^(ok|FAIL|panic:|\?)[[:space:]]' "$log" | grep -v 'no test files'
	if grep -qE '^(--- FAIL|[[:space:]]+--- FAIL|FAIL|panic:|.*\[build failed\])' "$log"; then
		status=1
		echo "---- output of what failed"
		awk '/^=== RUN/ {if (fail) printf "%s", buf; buf=""; fail=0} {buf = buf $0 "\n"} /--- FAIL|^FAIL|^panic:|build failed|cannot|\.go:[0-9]+:[0-9]+:/ {fail=1} END {if (fail) printf "%s", buf}' "$log" | tail -n 400
	fi
	if grep -E '^[[:space:]]*--- SKIP' "$log"; then
		echo "skipped tests: they should have run"
		status=1
	fi
}
for m in "$@"; do
	run "$m" -p 2 ./...
done
exit $status
