package userns

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// OwnerAttribute keeps the owner of a file of an image where every file has to
// belong to the one user of a namespace.
const OwnerAttribute = "user.tidegate.owner"

// Owner tells who owns a file of an image: who has it on the disk or, where all
// is one user's, who is noted at it.
func Owner(file string, uid, gid uint32) (int, int) {
	if !Current().Single {
		return int(uid), int(gid)
	}
	var u, g uint32
	buffer := make([]byte, 32) // two numbers of ten digits
	n, err := unix.Lgetxattr(file, OwnerAttribute, buffer)
	if err != nil {
		return int(uid), int(gid)
	}
	if n, err := fmt.Sscanf(string(buffer[:n]), "%d:%d", &u, &g); n != 2 || err != nil {
		return int(uid), int(gid)
	}
	return int(u), int(g)
}
