# The same image as `make image` makes without a container engine, on a base that some platforms insist on.
#
#   docker buildx build --platform=linux/amd64,linux/arm64 --build-arg=VERSION=v1.2.3 .
#
# Both bases are arguments, so that a pipeline can pin them by digest or take them from its own registry.
ARG BUILDER=golang:1.26
ARG BASE=gcr.io/distroless/static-debian12:nonroot

FROM --platform=$BUILDPLATFORM ${BUILDER} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=unknown
# The licenses of what is linked in have to accompany it.
RUN mkdir /licenses && cp LICENSE /licenses/ && hack/release/licenses.sh save linux /licenses/third_party
# Static, so that it needs nothing from the base; -trimpath, so that it does not contain the paths where it was built.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags="-s -w -X main.version=$VERSION" -o /routesteward .

FROM ${BASE}
ARG VERSION=unknown REVISION=unknown CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="routesteward" \
      org.opencontainers.image.description="Keeps routes on a shared Gateway where that Gateway can serve them" \
      org.opencontainers.image.source="https://github.com/routesteward/routesteward" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
COPY --from=build /licenses /licenses
COPY --from=build /routesteward /routesteward
# A number, so that the kubelet can see that it is not root (runAsNonRoot). Distroless calls this user nonroot.
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/routesteward"]
