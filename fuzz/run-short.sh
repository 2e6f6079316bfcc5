#!/usr/bin/env bash
# Every fuzz target for a share of SECONDS_IN_ALL (default 60). Stable Rust is enough: no sanitizer, since the gateway forbids
# unsafe code. What the run adds to the corpora stays in fuzz/run; an input with a finding is in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds_in_all="${SECONDS_IN_ALL:-60}"
if ! cargo fuzz --version >/dev/null 2>&1; then
    printf '\n*** SKIPPED: cargo-fuzz is missing, nothing was fuzzed. To have it: cargo install cargo-fuzz\n\n' >&2
    exit 0
fi

target_dir=()
[[ -n "${FUZZ_TARGET_DIR:-}" ]] && target_dir=(--target-dir "$FUZZ_TARGET_DIR")
if [[ $# -gt 0 ]]; then targets=("$@"); else mapfile -t targets < <(cargo fuzz list); fi
share=$((seconds_in_all / ${#targets[@]}))

cargo fuzz build --sanitizer none "${target_dir[@]}"
for target in "${targets[@]}"; do
    printf '== %s (%ss)\n' "$target" "$share"
    mkdir -p "fuzz/run/$target"
    log="fuzz/run/$target.log"
    if ! cargo fuzz run --sanitizer none "${target_dir[@]}" "$target" "fuzz/run/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$share" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 >"$log" 2>&1; then
        tail -n 40 "$log"
        printf '*** %s has a finding\n' "$target" >&2
        exit 1
    fi
    grep -E 'number_of_executed_units|peak_rss' "$log"
done
