# Everything one does with this project. `make` alone explains.

.PHONY: help build demo test lint doc bench clean

help:
	@echo 'make build   compiles target/release/barman'
	@echo 'make demo    backs up a throwaway PostgreSQL, breaks it, restores it to the moment before (3 minutes)'
	@echo 'make test    installs what the tests need (on Debian, as root), then runs them all'
	@echo 'make lint    checks formatting, clippy and the documentation'
	@echo 'make bench   runs the benchmarks'
	@echo 'make clean   removes what was built and downloaded'

build:
	cargo build --release --locked

demo: build
	@scripts/demo.sh

test:
	@scripts/test.sh

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --workspace --document-private-items

bench:
	cargo bench --locked --workspace

clean:
	cargo clean
	rm -rf .cache /var/cache/barman-test
