FROM scratch AS context
FROM scratch AS scratch
FROM scratch AS ok
