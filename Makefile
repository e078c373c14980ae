# Rehearse, test and measure graceful shutdown of long-lived connections.
# Every setting of the programs can be given to make as well: make rehearse SESSIONS=100 FAULT=exit-mid-drain

.DEFAULT_GOAL := help

# What `check` needs and nobody else: other lines of Node, and Deno; pinned.
TOOLS := deno@2.9.6 node20@npm:node@20.19.5 node22@npm:node@22.23.3 node24@npm:node@24.21.0 node26@npm:node@26.10.0
DENO := .tools/node_modules/.bin/deno
SOURCES := *.ts *.mjs test/*.ts test/*.mjs

# List the targets with their sentences.
help:
	@awk '/^# /{text=substr($$0,3)} /^[a-z][a-z0-9-]*:/{sub(/:.*/,"",$$1); if(text!="")printf "  make %-12s %s\n",$$1,text} !/^# /{text=""}' $(MAKEFILE_LIST)
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

# Check types, format, lint and Deno, and run the bundles on every supported line of Node.
check: node_modules/.package-lock.json .tools/installed
	npx --no-install tsc
	$(DENO) fmt --check --line-width 120 $(SOURCES)
	$(DENO) lint $(SOURCES)
	$(DENO) check *.ts
	node build.mjs --tests
	node --test --test-reporter=spec dist/test/runtimes.test.mjs
.PHONY: check

# Print what a rehearsal costs, from 1 to 9,000 sessions, beside raw TCP.
bench: build
	@node test/bench.mjs
.PHONY: bench

# Remove what was built and installed.
clean:
	rm -rf dist node_modules .tools
.PHONY: clean
