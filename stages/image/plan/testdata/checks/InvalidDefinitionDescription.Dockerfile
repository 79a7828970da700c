# check=experimental=InvalidDefinitionDescription
# other words
FROM scratch AS base
# wrong
ARG version=1
# foo is right
ARG foo=1
