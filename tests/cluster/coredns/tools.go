//go:build tools

// Package tools names the program that build.sh builds, so that go.mod holds what it needs.
package tools

import _ "github.com/coredns/coredns"
