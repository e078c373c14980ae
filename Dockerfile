# Server and client in one image; the pod's args say which: ["client.js"] for the client.
FROM --platform=$BUILDPLATFORM node:24-slim AS build
WORKDIR /build
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY *.mjs *.ts report.html ./
RUN node build.mjs

# The bundles are JavaScript: what was built on one architecture runs on all that the base image has.
FROM gcr.io/distroless/nodejs24-debian13:nonroot
LABEL org.opencontainers.image.title="k8s-graceful-shutdown-test" \
      org.opencontainers.image.description="Tells whether long-lived connections survive the end of a pod" \
      org.opencontainers.image.source="https://github.com/donileongdeepernetwork/k8s-graceful-shutdown-test" \
      org.opencontainers.image.licenses="MIT"
WORKDIR /app
COPY --from=build /build/dist/server.js /build/dist/client.js /build/dist/LICENSES.txt ./
EXPOSE 8080 9090 9091
# The entrypoint is node itself, in exec form: it is PID 1 and gets SIGTERM.
CMD ["server.js"]
