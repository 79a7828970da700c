FROM scratch
ENTRYPOINT x
FROM scratch
SHELL ["/bin/bash","-c"]
CMD x
FROM scratch
CMD ["x"]
