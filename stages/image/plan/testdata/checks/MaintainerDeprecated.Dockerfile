FROM scratch
MAINTAINER someone
