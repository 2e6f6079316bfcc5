#!/usr/bin/env bash
# `doorward check` on the shipped configs, with throwaway certificates made by openssl for the run.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
doorward="${CARGO_TARGET_DIR:-$repo/target}/debug/doorward"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/certs" "$work/config"
cp "$repo"/config/*.toml "$work/config/"
cd "$work/certs"

quiet() { "$@" >/dev/null 2>&1; }

authority() { # NAME SUBJECT
    quiet openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$2" -keyout "$1.key" -out "$1.pem" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
}

leaf() { # NAME CA SAN EKU
    quiet openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
    quiet openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -days 30 -out "$1.crt" \
        -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=%s\n' "$3" "$4")
}

authority server-ca "Throwaway server CA"
authority internal-ca "Throwaway internal CA"
authority acme-ca "Throwaway client CA"
leaf portal server-ca DNS:portal.example.com serverAuth
leaf gateway-client internal-ca DNS:gateway.example.com clientAuth
quiet openssl genpkey -algorithm ed25519 -out alice.key
quiet openssl pkey -in alice.key -pubout -out alice.pub
touch index.txt
echo 01 >number
cat >ca.conf <<CONF
[ca]
default_ca = here
[here]
database = index.txt
crlnumber = number
default_md = sha256
default_crl_days = 30
CONF
quiet openssl ca -config ca.conf -gencrl -cert acme-ca.pem -keyfile acme-ca.key -out acme-ca.crl

cd "$work"
for config in config/*.toml; do
    "$doorward" check --config "$config"
done
[[ ! -e state ]] || { echo "check created the state folder" >&2; exit 1; }
echo "shipped configs: ok"
