FROM scratch
EXPOSE 80/TCP 81/udp
