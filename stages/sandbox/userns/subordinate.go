package userns

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// The bounds of /etc/subuid and of the ids taken from it: those that images use.
const (
	maxGrants = 4 << 20 // bytes
	maxIDs    = 1 << 20
)

// subordinate gives the ids that a file such as /etc/subuid grants a user.
func subordinate(file, name string, uid int) (first, count uint32, err error) {
	from, err := os.Open(file)
	if err != nil {
		return 0, 0, err
	}
	defer from.Close()
	first, count, ok := parseGrants(io.LimitReader(from, maxGrants), name, strconv.Itoa(uid))
	if !ok {
		return 0, 0, fmt.Errorf("%s grants %s no ids", file, name)
	}
	return first, count, nil
}

// parseGrants finds the largest grant in lines of subuid(5), "user:first:count",
// where user is a name or a number.
func parseGrants(from io.Reader, name, number string) (first, count uint32, ok bool) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || (fields[0] != name && fields[0] != number) {
			continue
		}
		start, startErr := strconv.ParseUint(fields[1], 10, 32)
		n, countErr := strconv.ParseUint(fields[2], 10, 32)
		if startErr != nil || countErr != nil || start == 0 || start+n > 1<<32-1 || uint32(n) <= count {
			continue
		}
		first, count, ok = uint32(start), uint32(n), true
	}
	return first, min(count, maxIDs), ok
}
