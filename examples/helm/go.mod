module example.com/helm

go 1.26
