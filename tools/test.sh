#!/bin/sh
# Runs the tests of the modules in the folders named, prints each package's
# `go test` line, how many packets the differential test compared, and the output
# of what failed, and fails when a test failed or was skipped. Most tests drive
# real daemons, which a busy machine can make late: a test that failed runs once
# more, alone, and fails if it fails again. One that does not is printed as FLAKY,
# with its output: a bug to be mended. Races and panics are not tried again.
set -u
: "${GO:=go}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
run() { # run FOLDER FLAGS PACKAGES...
	dir=$1 flags=$2
	shift 2
	ended=0
	(cd "$dir" && $GO test -count=1 -timeout 25m -v $flags "$@") >"$log" 2>&1 || ended=1
	grep -E '^(ok|FAIL|panic:|\?)[[:space:]]|packets compared with the judge' "$log" | grep -v 'no test files'
	if grep -qE '^(--- FAIL|[[:space:]]+--- FAIL|FAIL|panic:|.*\[build failed\])' "$log"; then
		ended=0
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
		again=$(awk '/^--- FAIL: / { tests = tests "|" $3 }
			/^(panic:|fatal error:|WARNING: DATA RACE)|\[(build|setup) failed\]/ { tests = "|"; never = 1 }
			/^(ok|FAIL|\?)[[:space:]]+[^ ]/ { if ($1 == "FAIL") print $2 "=" (never ? "" : substr(tests, 2)); tests = ""; never = 0 }' "$log")
		[ -n "$again" ] || ended=1
		for x in $again; do
			if [ -n "${x#*=}" ] && (cd "$dir" && $GO test -count=1 -timeout 25m $flags -run "^(${x#*=})\$" "${x%%=*}"); then
				echo "FLAKY: ${x#*=} of ${x%%=*}"
			else
				ended=1
			fi
		done
	fi
	[ $ended = 0 ] || status=1
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
		run . '-p 2 -race -skip ^TestGuest' ./...
		run . '-p 1 -run ^TestGuest' $(guests)
		;;
	*) run "$m" '-p 1' ./... ;;
	esac
done
exit $status
