module github.com/vnet-go/vnet/examples

go 1.26.0

require (
	github.com/vnet-go/vnet v0.0.0
	go.yaml.in/yaml/v3 v3.0.5
)

replace github.com/vnet-go/vnet => ..
