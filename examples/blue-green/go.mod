module example.com/blue-green

go 1.26
