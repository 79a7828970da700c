FROM --platform=linux/amd64 base
FROM --platform=linux/amd64 base AS build_amd64
