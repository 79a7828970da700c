FROM scratch AS a
COPY left-out /
ADD left-out /
COPY kept /
FROM scratch
COPY --from=a left-out /
