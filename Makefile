# The only door. `make help` says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help prepare prepare-suite check test test-podman test-vm test-slow-reader simulate fuzz demo demo-down demo-tunnel demo-tunnel-down conformance bench bench-services bench-pets bench-tunnel

CARGO ?= cargo
# Development build: what the tests and the demo run. The benchmarks measure the release build.
LAB := target/debug/lab
FOCUS ?= \[NodeConformance\]
SKIP ?= \[Serial\]|\[Slow\]|\[Disruptive\]|\[Flaky\]
PROCS ?= 8
NODES ?= 2
# --dns: CoreDNS. --kubelet: the real kubelet with containerd in place of kube-pet.
# --kube-proxy: the real one does Services, a judge of the lab and not of kube-pet. --tunnel: each pet behind NAT.
CLUSTER ?= --dns
LIST ?=
REPORT ?= docs/conformance.md
# The end-to-end tests mostly wait: more of them at once than there are processors.
TEST_THREADS ?= 5
# How often an end-to-end test may be tried before it has failed. The attempts that fail are told.
ATTEMPTS ?= 2
SUITE ?= trixie
# Each of these tests has a virtual machine of its own.
VM := kube-pet-lab/vm
VM_THREADS ?= 2
# A test's error says by its own words where it comes from, and a backtrace would bury them: make RUST_BACKTRACE=1 test.
export RUST_BACKTRACE := 0
# What `make fuzz` runs, and for how long each.
FUZZ_TARGETS ?= spdy_frames spdy_headers websocket_frames channel_json remote_command port_forward
FUZZ_SECONDS ?= 600

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 22

prepare: ## packages, kernel mounts and foreign programs of the lab (a first run builds Kubernetes: 15 to 20 minutes)
	@scripts/prepare.sh controlplane images clients

prepare-suite: prepare
	@scripts/prepare.sh suite metrics-server peer helm

check: ## format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --features $(VM) --quiet -- -D warnings

test: prepare-suite check ## everything: lints, unit and component tests, end-to-end tests, a fast part of the official suite
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace --doc --quiet
	KUBE_PET_ATTEMPTS=$(ATTEMPTS) RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --workspace --lib --bins --tests

test-podman: prepare ## end-to-end tests on pets with another Debian and its Podman: SUITE=trixie (5.4) or sid (5.8)
	@lab/build.sh rootfs-$(SUITE)
	$(CARGO) build --workspace --bins
	KUBE_PET_ATTEMPTS=$(ATTEMPTS) KUBE_PET_SUITE=$(SUITE) RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --package kube-pet-lab --test e2e

test-vm: prepare ## a real boot: systemd, cgroup v2, journald, the kernel's WireGuard and power cuts, on virtual machines (KUBE_PET_LAB_ACCELERATOR=kvm where that works)
	@scripts/prepare.sh vm
	$(CARGO) build --workspace --bins --tests --features $(VM)
	RUST_TEST_THREADS=$(VM_THREADS) $(CARGO) test --workspace --features $(VM) --test vm

test-slow-reader: prepare ## the full case of a reader slower than its process: 32 MiB at 1 MiB/s, five times over each protocol
	$(CARGO) build --workspace --bins
	KUBE_PET_SLOW=33554432,1048576,5 $(CARGO) test --package kube-pet-lab --test e2e -- slow_reader

simulate: ## a hundred thousand simulated lives of a pod; `make test` has ten thousand of them
	HISTORIES=100000 $(CARGO) test --package kube-pet-core --lib -- many_histories

# Without a sanitizer the pinned stable toolchain does; there is no unsafe code in what is tested. What is found stays in fuzz/artifacts.
fuzz: ## fuzz targets one after another, FUZZ_SECONDS=600 each; FUZZ_TARGETS='spdy_frames …'; new inputs are added to fuzz/corpus
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz@0.13.2
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/corpus/$$target; \
	  nice -n 10 $(CARGO) fuzz run --sanitizer none $$target fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -print_final_stats=1; \
	done

demo: prepare ## a cluster with one pet, shown at work; it stays up
	@$(CARGO) build --quiet --bins
	@$(LAB) demo

demo-down: ## removes the demo's cluster
	@$(CARGO) build --quiet --bin lab
	@$(LAB) down --name demo

demo-tunnel: prepare ## a cluster in a cloud with pets at two homes and with a public address, joined by the tunnel; it stays up
	@$(CARGO) build --quiet --bins
	@$(LAB) demo-tunnel

demo-tunnel-down: ## removes that cluster
	@$(CARGO) build --quiet --bin lab
	@$(LAB) down --name demo-tunnel

conformance: prepare-suite ## the official suite; FOCUS='regular expression' or LIST=lab/conformance/….txt, SKIP=…, PROCS=8, NODES=2, CLUSTER=--dns; writes REPORT=docs/conformance.md
	@$(CARGO) build --quiet --release --bins
	@target/release/lab conformance --focus '$(FOCUS)' $(if $(LIST),--list '$(LIST)') --skip '$(SKIP)' --procs $(PROCS) --nodes $(NODES) $(CLUSTER) --report '$(REPORT)'

bench: prepare ## pod start, memory and CPU of the whole node, against Podman's own floor; exec and port-forward beside the kubelet with containerd
	@scripts/prepare.sh peer
	@$(CARGO) build --quiet --release --bins
	@$(CARGO) build --quiet --release --package kube-pet-podman --example floor
	@target/release/lab bench
	@target/release/lab bench-interactive

bench-services: prepare ## Services beside the real kube-proxy (nftables mode): start, change of an endpoint, memory, CPU, for 100, 1,000 and 10,000 of them
	@scripts/prepare.sh peer
	@$(CARGO) build --quiet --release --bins
	@target/release/lab bench-services

bench-pets: prepare ## 1,000 simulated pets: addresses under a race, a peer's change at the gateway, memory and CPU
	@$(CARGO) build --quiet --release --bins
	@target/release/lab bench-pets

bench-tunnel: prepare ## throughput and round trips of the tunnel beside wireguard-go and plain links
	@scripts/prepare.sh wireguard
	@$(CARGO) build --quiet --release --bins
	@target/release/lab bench-tunnel
