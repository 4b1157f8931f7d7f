#!/usr/bin/env bash
# Looks for known vulnerabilities in what the program calls, and exits with 1 when there is one. Where Go's database cannot be
# reached it says so and exits with 0, unless REQUIRE_VULNDB is set, as it should be where releases are made. GOVULNDB names
# another database, such as file:///mirror, which must be there.
#
#   [GOVULNDB=URL] [REQUIRE_VULNDB=1] hack/release/vuln.sh [DIR]    default: this checkout
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
"$root/hack/release/build" govulncheck

report=$(mktemp)
trap 'rm -f "$report"' EXIT
status=0
"$root/bin/release/govulncheck" -db "${GOVULNDB:-https://vuln.go.dev}" -C "${1:-$root}" ./... >"$report" 2>&1 || status=$?
cat "$report"
case $status in
  0) exit 0 ;;
  3) exit 1 ;; # vulnerable code is called
esac
if grep -qE '^govulncheck: fetching vulnerabilities: .*(dial tcp|lookup |timeout|connection re|proxyconnect|TLS handshake)' "$report"; then
  printf '%s\n' '' '!! NOT CHECKED for known vulnerabilities: the database cannot be reached.' '!! GOVULNDB may name a mirror of https://vuln.go.dev.' '' >&2
  [ -n "${REQUIRE_VULNDB:-}" ] || exit 0
fi
exit 2
