FROM scratch
ENV A b
LABEL c d
ENV E=f
LABEL g=h
