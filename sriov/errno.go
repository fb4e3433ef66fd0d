package sriov

import (
	"errors"
	"syscall"
)

// unsupported reports whether the kernel's word is that a driver lacks a call.
func unsupported(err error) bool {
	return errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EPROTONOSUPPORT) || errors.Is(err, syscall.ENOSYS)
}
