# check=skip=JSONArgsRecommended,StageNameCasing
FROM scratch AS A
CMD x
EXPOSE 80/TCP
