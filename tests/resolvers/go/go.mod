module sealane.dev/tests/resolvers

go 1.26
