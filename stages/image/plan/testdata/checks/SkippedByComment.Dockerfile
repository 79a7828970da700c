FROM scratch
# check=skip=JSONArgsRecommended
CMD x
FROM scratch
CMD y
