package rtnl

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NoChecksumOffload makes the kernel fill in the checksums of what a device
// of the calling thread's network namespace sends. A userspace datapath reads
// the frames of a veth as they are, and TCP and UDP would arrive with
// checksums that hardware was to compute.
func NoChecksumOffload(dev string) error {
	const setTxCsum = 0x17 // ETHTOOL_STXCSUM, linux/ethtool.h
	type value struct{ cmd, data uint32 }
	type ifreq struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	v := value{cmd: setTxCsum}
	r := ifreq{data: unsafe.Pointer(&v)}
	copy(r.name[:unix.IFNAMSIZ-1], dev)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return fmt.Errorf("checksum offload of %s: %w", dev, errno)
	}
	return nil
}
