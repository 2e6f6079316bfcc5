# What people do most; each is one line that also works by hand.

default: test

# The tests of the README.
test:
    cargo test

# Everything CI runs.
ci:
    .ci/run

# The whole thing before a toy portal.
demo *args:
    cargo run --release -- demo {{ args }}

# The abuse tables against the built release binary; see tests/attack/main.rs for what it takes.
attack *args:
    cargo test --release --test attack -- {{ args }}

lint:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings

# Costs of the decision and of each control.
bench:
    cargo bench --bench decide --bench limits --bench bans --bench controls

# Fuzzes every target (or those named) for an hour in all; SECONDS_IN_ALL=60 is what CI runs.
fuzz *targets:
    SECONDS_IN_ALL="${SECONDS_IN_ALL:-3600}" fuzz/run-short.sh {{ targets }}

# The release binary with mimalloc and profile-guided optimisation; prints where it is.
optimised:
    packaging/optimised.sh

# Beside nginx, haproxy, envoy, pingora and a floor; see benches/peers/README.md.
bench-peers *args:
    benches/peers/run.py {{ args }}

# What grows with keys, cores and sites.
bench-scale *args:
    benches/peers/scale.py --benchmarks BENCHMARKS.md {{ args }}

# Rewrites the expected messages of tests/config/bad; read the diff.
bless:
    DOORWARD_BLESS=1 cargo test --test it config

schema:
    cargo run -- config schema > config/doorward.schema.json
