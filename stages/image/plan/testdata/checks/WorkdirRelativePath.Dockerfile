FROM scratch
WORKDIR a
FROM scratch
WORKDIR /a
WORKDIR b
FROM scratch AS abs
WORKDIR /x
FROM abs
WORKDIR y
