#!/usr/bin/env bash
# The built gateway's TLS, as sslscan and testssl.sh see it, each where it is installed (Debian: sslscan, testssl.sh). It stands
# before nothing, with a throwaway certificate. Fails on a version, suite or flaw that a scanner of today frowns on.
# usage: [PORT=18443] [KEEP=FOLDER] tests/tls-scan.sh [--doorward PATH]
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
doorward="${CARGO_TARGET_DIR:-$repo/target}/debug/doorward"
[[ ${1:-} == --doorward ]] && doorward=$2
work=$(mktemp -d)
name=portal.example.com
port=${PORT:-18443}
trap 'kill "${gateway:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT

openssl req -x509 -newkey rsa:2048 -nodes -days 90 -subj '/CN=A throwaway CA' -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout "$work/$name.key" -out "$work/$name.csr" 2>/dev/null
openssl x509 -req -in "$work/$name.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -days 80 -out "$work/$name.crt" \
    -extfile <(printf 'subjectAltName=DNS:%s\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n' "$name") 2>/dev/null
cat "$work/ca.pem" >>"$work/$name.crt"
cat >"$work/doorward.toml" <<CONFIG
state_dir = "$work/state"
[listen]
https = ["127.0.0.1:$port"]
[log]
access = "$work/access.log"
events = "$work/events.log"
[caps]
handshakes_per_client = "1000/s"
[tls]
[[tls.certificate]]
chain = "$work/$name.crt"
key = "$work/$name.key"
[upstream.none]
servers = ["http://127.0.0.1:9"]
[[site]]
hosts = ["$name"]
  [[site.route]]
  path = "/"
  upstream = "none"
  bots = "any"
CONFIG
"$doorward" --config "$work/doorward.toml" run 2>"$work/run.err" &
gateway=$!
for _ in $(seq 100); do
    grep -q 'ready' "$work/run.err" && break
    kill -0 "$gateway" || { cat "$work/run.err" >&2; exit 1; }
    sleep 0.1
done
failed=0

refuse() { # WHAT PATTERN FILE
    if grep -Eq "$2" "$3"; then echo "FAIL  $1:"; grep -E "$2" "$3" | head -5; failed=1; else echo "ok    $1"; fi
}
demand() { # WHAT PATTERN FILE
    if grep -Eq "$2" "$3"; then echo "ok    $1"; else echo "FAIL  $1"; failed=1; fi
}

if command -v sslscan >/dev/null; then
    sslscan --no-colour --sni-name="$name" "127.0.0.1:$port" >"$work/sslscan.txt"
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
    "$testssl" --quiet --color 0 --warnings off --ip 127.0.0.1 --add-ca "$work/ca.pem" --jsonfile "$work/testssl.json" \
        "$name:$port" >"$work/testssl.txt" 2>&1 || true
    # The certificate is a throwaway one: nobody revokes it, and no DNS speaks of it. Among suites that are all good, the client
    # knows best what its hardware does well; so does Mozilla's intermediate profile.
    mine='cipher_order|cert_|DNS_CAArecord|OCSP|CRL|scanTime|engine_problem|scanProblem|intermediate_cert'
    paste -sd' ' "$work/testssl.json" | sed 's/} *, *{/}\n{/g' | tr -s ' ' >"$work/findings.txt"
    grep -E '"severity" *: *"(LOW|MEDIUM|HIGH|CRITICAL)"' "$work/findings.txt" | grep -Ev "\"id\" *: *\"[^\"]*($mine)" >"$work/found.txt" || true
    demand "testssl.sh: it scanned" '"id" *: *"TLS1_3"' "$work/findings.txt"
    refuse "testssl.sh: nothing from LOW up but of the throwaway certificate and the order of suites, which is the client's" . "$work/found.txt"
    demand "testssl.sh: HSTS is offered" '"id" *: *"HSTS_time"' "$work/findings.txt"
    # Only newer versions give a grade.
    grep -q 'Overall Grade' "$work/testssl.txt" && demand "testssl.sh: grade A+" 'Overall Grade +A\+' "$work/testssl.txt"
else
    echo "skip  testssl.sh is not installed"
fi
[[ -z ${KEEP:-} ]] || cp -r "$work" "$KEEP"
exit "$failed"
