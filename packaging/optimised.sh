#!/usr/bin/env bash
# Builds the binary that BENCHMARKS.md measures: the release build with mimalloc, laid out by what a short run of benches/peers showed
# to be hot (profile-guided optimisation). Together they take some 5 % off a request's CPU time, 10 % over HTTP/2; the same source and
# settings otherwise.
#
# Beside Rust it needs what benches/peers needs, and llvm-profdata of rustc's own LLVM: `rustup component add llvm-tools`, Debian's
# llvm-NN, or LLVM_PROFDATA=/path/to/it. The profile is made anew each time: it fits one source and one compiler. Some 15 minutes on
# two cores; prints where the binary is.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
host="$(rustc -vV | sed -n 's/^host: //p')"
llvm="$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')"
profile="$(mktemp -d)"
trap 'rm -rf "$profile"' EXIT

profdata() {
    local one
    for one in "${LLVM_PROFDATA:-}" "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" "llvm-profdata-$llvm"; do
        if [[ -n $one ]] && command -v "$one"; then
            return
        fi
    done
    echo "optimised.sh: no llvm-profdata of LLVM $llvm: rustup component add llvm-tools, or Debian's llvm-$llvm" >&2
    exit 1
}

# A folder for each kind, and --target: so nothing that runs while building (build scripts, macros) is instrumented.
build() {
    RUSTFLAGS="${RUSTFLAGS:-} $2" cargo build --release --locked --features mimalloc --bin doorward --target "$host" --target-dir "$target/$1"
}

merge="$(profdata)"
for tool in python3 h2load nginx openssl taskset; do
    command -v "$tool" >/dev/null || { echo "optimised.sh: $tool is not installed; see benches/peers/README.md" >&2 && exit 1; }
done

build instrumented "-Cprofile-generate=$profile/raw"
benches/peers/run.py --peers doorward,doorward-least --rounds 1 --seconds 2 --out "$profile/run.json" \
    --doorward "$target/instrumented/$host/release/doorward" ${LOAD:+--load "$LOAD"} >/dev/null
"$merge" merge -o "$profile/doorward.profdata" "$profile"/raw
build optimised "-Cprofile-use=$profile/doorward.profdata"
echo "$target/optimised/$host/release/doorward"
