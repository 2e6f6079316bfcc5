#!/usr/bin/env bash
# Builds the binary that BENCHMARKS.md measures: the release build with mimalloc, laid out by what a round of benches/peers showed to
# be hot (profile-guided optimisation); the same source and settings otherwise. benches/peers/README.md says what that gains.
#
# Beside Rust it needs what benches/peers needs, and llvm-profdata of rustc's own LLVM: `rustup component add llvm-tools`, Debian's
# llvm-NN, or LLVM_PROFDATA=/path/to/it. LOAD=/path/to/it names a load generator that is built already. The profile is made anew each
# time, for it fits one source and one compiler. Some 15 minutes on two cores; prints where the binary is.
set -euo pipefail
unset CARGO_ENCODED_RUSTFLAGS LLVM_PROFILE_FILE

fail() {
    echo "optimised.sh: $*" >&2
    exit 1
}

# Names are relative to where this was called.
absolute() {
    [[ -z $1 ]] || realpath -m -- "$1"
}
target="$(absolute "${CARGO_TARGET_DIR:-}")"
load="$(absolute "${LOAD:-}")"
merge="$(absolute "${LLVM_PROFDATA:-}")"

cd "$(dirname "$0")/.."
target="${target:-$PWD/target}"
profile="$target/profile"
host="$(rustc -vV | sed -n 's/^host: //p')"
llvm="$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')"

for tool in python3 h2load nginx openssl taskset; do
    command -v "$tool" >/dev/null || fail "$tool is not installed; see benches/peers/README.md"
done
if [[ -z $merge ]]; then
    merge="$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata"
    [[ -x $merge ]] || merge="$(command -v "llvm-profdata-$llvm")" ||
        fail "no llvm-profdata of LLVM $llvm: rustup component add llvm-tools, or Debian's llvm-$llvm"
fi
[[ -x $merge ]] || fail "$merge cannot be run"

# With --target nothing that runs while building (build scripts, macros) is instrumented.
build() {
    local yours="${RUSTFLAGS:-}"
    CARGO_ENCODED_RUSTFLAGS="${yours:+${yours// /$'\x1f'}$'\x1f'}$2" cargo build --release --locked --features mimalloc \
        --bin doorward --target "$host" --target-dir "$target/$1"
}

rm -rf "$profile" "$target/optimised"
build instrumented "-Cprofile-generate=$profile/raw"
benches/peers/run.py --peers doorward,doorward-least --rounds 1 --seconds 2 --note training --out "$profile/run.json" \
    --doorward "$target/instrumented/$host/release/doorward" ${load:+--load "$load"} >/dev/null
compgen -G "$profile/raw/*.profraw" >/dev/null || fail "the gateway left no profile in $profile/raw"
"$merge" merge -o "$profile/doorward.profdata" "$profile/raw"
build optimised "-Cprofile-use=$profile/doorward.profdata"
echo "$target/optimised/$host/release/doorward"
