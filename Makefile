# make cloud   the main job: a whole cloud network on this machine (Go and root, no package)
#              BACKEND=ovn, BACKEND=ovs: the same on OVN, or on Open vSwitch alone, installing it when it is not there
# make test    installs what tests need and runs them all, both modules
# make lint    gofmt, vet, staticcheck, govulncheck
# make bench   the table of measurements, as ratios to peers in the same run
# make fuzz    every fuzz target for FUZZTIME each
# make clean   what a killed run left behind on this machine, and bin/

GO       ?= go
BACKEND  ?= linux
FUZZTIME ?= 1m
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.7.0
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.3.0

.PHONY: all build cloud test deps bench-deps lint bench fuzz clean

all: build

build:
	$(GO) build ./...
	cd examples && $(GO) build -o ../bin/cloud ./cloud

cloud: build
	@[ $(BACKEND) = linux ] || sh tools/deps.sh $(BACKEND)
	@bin/cloud up -f examples/cloud/topology.yaml --backend $(BACKEND) && bin/cloud limits; s=$$?; \
	if [ -n "$(KEEP)" ]; then echo "kept: bin/cloud status, bin/cloud limits, bin/cloud exec VM -- CMD, bin/cloud down"; \
	else bin/cloud down || s=$$?; fi; exit $$s

test: deps
	@sh tools/test.sh . examples

deps:
	@sh tools/deps.sh test

bench-deps: deps
	@sh tools/deps.sh bench

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	cd examples && $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	cd examples && $(GO) run $(STATICCHECK) ./...
	@out=$$($(GO) run $(GOVULNCHECK) ./... 2>&1); s=$$?; echo "$$out"; \
	case "$$out" in *"fetching vulnerabilities"*) echo "govulncheck: its database cannot be reached from here: NOT CHECKED" ;; *) exit $$s ;; esac

bench: bench-deps
	@sh tools/bench.sh

fuzz:
	@sh tools/fuzz.sh $(FUZZTIME)

clean:
	-[ ! -x bin/cloud ] || bin/cloud down
	rm -rf bin
