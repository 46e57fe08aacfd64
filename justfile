# Commands of a day. `just` lists them; https://just.systems has the program.

[private]
default:
    @just --list

# Format all code.
fmt:
    cargo fmt --all

# Check formatting, lints and documentation.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Run all tests, or those of a crate: `just test -p cenotaph-storage`.
test *ARGS="--workspace":
    cargo test {{ ARGS }}

# Run the gate, as CI does; `just gate --full` adds the long runs.
gate *ARGS:
    .ci/run {{ ARGS }}

# Run an example: `just example counter`.
example NAME:
    cargo run -p {{ if path_exists("sim/examples/" + NAME + ".rs") == "true" { "cenotaph-sim" } else { "cenotaph" } }} --example {{ NAME }}

# Print the measures of how the code reads.
measure-style:
    cargo run -q -p cenotaph-tests --example measure_style

# Simulate this many seeds.
sim SEEDS="1000":
    cargo run --release -p cenotaph-sim -- run --seeds {{ SEEDS }}

# Print the timeline of a simulated seed.
replay SEED *ARGS:
    cargo run --release -p cenotaph-sim -- replay {{ SEED }} {{ ARGS }}

# Print the tables of docs/benchmarks.md.
bench:
    cargo bench -p cenotaph-tests

# Measure Cenotaph beside its peers: `just peers --write-docs`.
peers *ARGS:
    cargo run --release --manifest-path bench/Cargo.toml -- {{ ARGS }}

# Show an import, a crash and a recovery.
demo:
    cargo run --release -- demo

# Check spelling.
typos:
    typos
