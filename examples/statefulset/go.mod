module example.com/statefulset

go 1.26
