module example.com/environments

go 1.26
