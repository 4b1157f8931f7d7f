//go:build !race

package gateways

const raceEnabled = false
