FROM scratch
Entrypoint ["x"]
env A=1
USER x
