#!/bin/sh
# The measurements as a table: what was measured, the ratios and counts, and
# the raw figures. What counts are the ratios and counts, taken in one run;
# times and rates are of this machine at this moment.
set -u
: "${GO:=go}"
status=0
out=$(mktemp)
trap 'rm -f "$out"' EXIT
for dir in $(git grep -l '^func Benchmark' -- '*_test.go' | grep -v '^examples/' | xargs -n1 dirname | sort -u); do
	$GO test -run '^$' -bench "${BENCH:-.}" -benchtime "${BENCHTIME:-1x}" -timeout 20m "./$dir" >"$out" 2>&1 || { status=1; cat "$out"; }
	awk -v dir="$dir" '
		/^Benchmark/ {
			name = $1; sub(/^Benchmark/, "", name); sub(/-[0-9]+$/, "", name)
			for (i = 3; i < NF; i += 2) {
				if ($(i + 1) == "ns/op") {
					if ($i > 0) rest = rest sprintf("  %.2f ms", $i / 1e6)
				} else if ($(i + 1) ~ /\/s(-|$)/)
					rest = rest sprintf("  %s %s", $i, $(i + 1))
				else
					first = first sprintf("  %s %s", $i, $(i + 1))
			}
			if (!shown++) print "== " dir
			printf "  %-32s%s%s%s\n", name, first, first != "" && rest != "" ? "  |" : "", rest
			first = rest = ""
		}' "$out"
done
exit $status
