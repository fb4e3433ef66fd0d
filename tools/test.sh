#!/bin/sh
# Runs the tests of the modules in the folders named, prints each package's
# `go test` line, how many packets the differential test compared, and the output of what failed, and fails when a test failed
# or was skipped.
set -u
: "${GO:=go}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
run() { # run FOLDER ARGS...
	(cd "$1" && shift && $GO test -count=1 -timeout 25m -v "$@") >"$log" 2>&1 || status=1
	grep -E '^(ok|FAIL|panic:|\?)[[:space:]]|packets compared with the judge' "$log" | grep -v 'no test files'
	if grep -qE '^(--- FAIL|[[:space:]]+--- FAIL|FAIL|panic:|.*\[build failed\])' "$log"; then
		status=1
		echo "---- output of what failed"
		# The beginning and the end of what each failed package printed about what failed.
		awk 'NR == FNR { if ($0 ~ /--- FAIL: /) { sub(/.*--- FAIL: /, ""); failed[$1] = 1 } next }
			/^=== (RUN|CONT|NAME)/ { show = $3 in failed }
			/^=== RUN/ { next }
			/--- FAIL: / || /^panic|^#|build failed|^[^ ]+\.go:[0-9]+:[0-9]+: / || show { line[n++] = $0 }
			/^(ok|FAIL|\?)[[:space:]]+[^ ]/ {
				if ($1 == "FAIL") { print "---- " $2; for (i = 0; i < n; i++) if (i < 60 || i >= n - 120) print line[i] }
				n = show = 0
			}' "$log" "$log"
	fi
	if grep -E '^[[:space:]]*--- SKIP' "$log"; then
		echo "skipped tests: they should have run"
		status=1
	fi
}
guests() { # the packages of this folder with tests that need the guest, which is too slow for the race detector
	git grep -lE '^func TestGuest' -- '*_test.go' ':!examples' | xargs -n 1 dirname | sort -u | sed 's|^|./|'
}
for m in "$@"; do
	case $m in
	.)
		run . -p 2 -race -skip '^TestGuest' ./...
		run . -p 1 -run '^TestGuest' $(guests)
		;;
	*) run "$m" -p 1 ./... ;;
	esac
done
exit $status
