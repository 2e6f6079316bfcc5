#!/usr/bin/env bash
# The built gateway, used by the clients that people use: curl, openssl s_client, h2load. The demo is the stage.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
doorward="${CARGO_TARGET_DIR:-$repo/target}/debug/doorward"
work=$(mktemp -d)
"$doorward" demo >"$work/demo.txt" 2>"$work/demo.err" &
demo=$!
trap 'kill "$demo" 2>/dev/null || true; wait "$demo" 2>/dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 100); do
    grep -q 'Ctrl-C' "$work/demo.txt" && break
    kill -0 "$demo" || { cat "$work/demo.err" >&2; exit 1; }
    sleep 0.1
done
site=$(grep -o 'https://localhost:[0-9]*' "$work/demo.txt" | head -1)
port=${site##*:}
plain=$(grep -o 'http://localhost:[0-9]*' "$work/demo.txt" | head -1)
certs=$(grep -o -- '--cacert [^ ]*' "$work/demo.txt" | head -1 | cut -d' ' -f2 | xargs dirname)
browser=(curl -sS --cacert "$certs/server-ca.pem" -A Mozilla/5.0 --max-time 20)
failed=0

expect() { # WHAT EXPECTED SEEN
    if [[ $3 == "$2" ]]; then echo "ok    $1: $2"; else echo "FAIL  $1: expected '$2', saw '$3'"; failed=1; fi
}
status() { "$@" -o /dev/null -w '%{http_code}'; }

expect "curl, HTTP/1.1" 200 "$(status "${browser[@]}" --http1.1 "$site/")"
expect "curl, HTTP/2" "200 2" "$("${browser[@]}" --http2 -o /dev/null -w '%{http_code} %{http_version}' "$site/")"
expect "curl, TLS 1.2" 200 "$(status "${browser[@]}" --tls-max 1.2 "$site/")"
expect "curl, the plain port" 403 "$(status curl -sS --max-time 20 "$plain/")"
expect "curl, a bot without approval" 403 "$(status curl -sS --cacert "$certs/server-ca.pem" "$site/orders/17")"
expect "curl, HEAD of a refusal over HTTP/2" "403 0" \
    "$(curl -sS --http2 -I --cacert "$certs/server-ca.pem" --max-time 20 -o /dev/null -w '%{http_code} %{exitcode}' "$site/orders/17")"
head -c 2000000 /dev/zero >"$work/refused"
expect "curl, a refused upload over HTTP/2" "403 0" \
    "$(curl -sS --http2 --data-binary "@$work/refused" --cacert "$certs/server-ca.pem" --max-time 20 -o /dev/null -w '%{http_code} %{exitcode}' "$site/orders/17")"
for kind in "good 200" "revoked 403" "expired 403" "foreign 403"; do
    read -r name code <<<"$kind"
    expect "curl, API with the $name certificate" "$code" \
        "$(status "${browser[@]}" --cert "$certs/$name.crt" --key "$certs/$name.key" "$site/api/orders")"
done
expect "curl, the good sign-in" "303 $site/home" "$("${browser[@]}" -o /dev/null -w '%{http_code} %{redirect_url}' \
    --data-urlencode username=alice --data-urlencode 'password=correct horse battery staple' "$site/login")"
expect "curl, a large download" 67108864 "$("${browser[@]}" -o /dev/null -w '%{size_download}' "$site/download")"
head -c 20000000 /dev/zero >"$work/upload"
expect "curl, a large upload" 20000000 \
    "$("${browser[@]}" --data-binary "@$work/upload" -H 'content-type: application/octet-stream' "$site/echo" | grep -o '"body_bytes":[0-9]*' | cut -d: -f2)"

session() { openssl s_client -connect "127.0.0.1:$port" -servername localhost -CAfile "$certs/server-ca.pem" "$@" </dev/null 2>&1 || true; }
expect "openssl, TLS 1.3" "Verify return code: 0 (ok)" "$(session -tls1_3 | grep -o 'Verify return code: 0 (ok)' | head -1)"
expect "openssl, TLS 1.2" "ECDHE" "$(session -tls1_2 | grep -o 'Cipher is ECDHE' | head -1 | cut -d' ' -f3)"
expect "openssl, TLS 1.1 refused" "refused" "$(session -tls1_1 -cipher 'ALL:@SECLEVEL=0' | grep -q 'Cipher is (NONE)' && echo refused)"
expect "openssl, CBC refused" "refused" "$(session -tls1_2 -cipher 'ECDHE-ECDSA-AES128-SHA256' | grep -q 'Cipher is (NONE)' && echo refused)"
expect "openssl, ALPN h2" "h2" "$(session -alpn h2 | grep -o 'ALPN protocol: h2' | cut -d' ' -f3)"

load=$(h2load -n 2000 -c 8 -m 16 --header 'user-agent: Mozilla/5.0' "https://localhost:$port/public/" 2>&1 || true)
expect "h2load, 2,000 requests over h2" "2000 succeeded" "$(grep -o '2000 succeeded' <<<"$load" | head -1)"
load=$(h2load --h1 -n 2000 -c 8 --header 'user-agent: Mozilla/5.0' "https://localhost:$port/reports/" 2>&1 || true)
expect "h2load, a limit over HTTP/1.1 refuses with 4xx" "yes" "$(grep -q '[1-9][0-9]* 4xx' <<<"$load" && echo yes)"
exit "$failed"
