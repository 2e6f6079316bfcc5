#!/usr/bin/env bash
# The built gateway's TLS, as sslscan and testssl.sh see it, each where it is installed (Debian: sslscan, testssl.sh). The demo
# is the stage. Fails on a version, suite or flaw that a scanner of today frowns on.
# usage: tests/tls-scan.sh [--doorward PATH]
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
doorward="${CARGO_TARGET_DIR:-$repo/target}/debug/doorward"
[[ ${1:-} == --doorward ]] && doorward=$2
work=$(mktemp -d)
"$doorward" demo >"$work/demo.txt" 2>"$work/demo.err" &
demo=$!
trap 'kill "$demo" 2>/dev/null || true; wait "$demo" 2>/dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 100); do
    grep -q 'Ctrl-C' "$work/demo.txt" && break
    kill -0 "$demo" || { cat "$work/demo.err" >&2; exit 1; }
    sleep 0.1
done
port=$(grep -o 'https://localhost:[0-9]*' "$work/demo.txt" | head -1 | cut -d: -f3)
certs=$(grep -o -- '--cacert [^ ]*' "$work/demo.txt" | head -1 | cut -d' ' -f2 | xargs dirname)
failed=0

refuse() { # WHAT PATTERN FILE
    if grep -Eq "$2" "$3"; then echo "FAIL  $1:"; grep -E "$2" "$3" | head -5; failed=1; else echo "ok    $1"; fi
}
demand() { # WHAT PATTERN FILE
    if grep -Eq "$2" "$3"; then echo "ok    $1"; else echo "FAIL  $1"; failed=1; fi
}

if command -v sslscan >/dev/null; then
    sslscan --no-colour --sni-name=localhost "localhost:$port" >"$work/sslscan.txt"
    refuse "sslscan: no SSL, no TLS 1.0 or 1.1" '(SSLv[23]|TLSv1\.[01]) +enabled' "$work/sslscan.txt"
    demand "sslscan: TLS 1.2" 'TLSv1\.2 +enabled' "$work/sslscan.txt"
    demand "sslscan: TLS 1.3" 'TLSv1\.3 +enabled' "$work/sslscan.txt"
    demand "sslscan: no compression" 'Compression disabled|does not support compression' "$work/sslscan.txt"
    refuse "sslscan: no renegotiation" 'Insecure session renegotiation|Secure session renegotiation supported' "$work/sslscan.txt"
    refuse "sslscan: no heartbleed" ' vulnerable to heartbleed' <(grep -v 'not vulnerable' "$work/sslscan.txt")
    refuse "sslscan: neither CBC nor static RSA" 'bits +(AES(128|256)-(GCM-)?SHA|CAMELLIA|.*CBC|DES|RC4|ECDHE-[A-Z]+-AES(128|256)-SHA)' "$work/sslscan.txt"
else
    echo "skip  sslscan is not installed"
fi

testssl=$(command -v testssl || command -v testssl.sh || true)
if [[ -n $testssl ]]; then
    # Warnings of the scanner itself are no finding.
    "$testssl" --quiet --color 0 --warnings off --fast --ip one --add-ca "$certs/server-ca.pem" --jsonfile "$work/testssl.json" \
        -p -s -f -P -S -h -U "localhost:$port" >"$work/testssl.txt" 2>&1 || true
    # The certificate is a throwaway one, for a name that is local; HSTS is for named hosts only.
    mine='cert_|HSTS|security_headers|DNS_CAArecord|OCSP|CRL|banner|cookie|scanTime|engine_problem|scanProblem|IP_address'
    paste -sd' ' "$work/testssl.json" | sed 's/}, *{/}\n{/g' | tr -s ' ' >"$work/findings.txt"
    grep -E '"severity" *: *"(LOW|MEDIUM|HIGH|CRITICAL)"' "$work/findings.txt" | grep -Ev "\"id\" *: *\"[^\"]*($mine)" >"$work/found.txt" || true
    demand "testssl.sh: it scanned" '"id" *: *"TLS1_3"' "$work/findings.txt"
    refuse "testssl.sh: nothing from LOW up but of the certificate" . "$work/found.txt"
    grep -E 'Overall Grade|Final Score|Grade cap' "$work/testssl.txt" || true
else
    echo "skip  testssl.sh is not installed"
fi
exit "$failed"
