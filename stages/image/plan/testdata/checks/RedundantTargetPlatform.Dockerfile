FROM --platform=$TARGETPLATFORM base
FROM --platform=$BUILDPLATFORM base
