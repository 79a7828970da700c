package oci

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/tidegate-ci/tidegate/stages/sandbox/scoped"
)

// identity is who a command runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// Bounds on the files of a root filesystem that name users.
const (
	maxAccountFile   = 4 << 20
	maxAccountLine   = 64 << 10
	maxAccountGroups = 1024
)

// lookUpUser resolves "uid", "uid:gid", "name" or "name:group" in the accounts
// of a root filesystem. Empty means root.
func lookUpUser(root, user string) (identity, error) {
	if user == "" {
		user = "0"
	}
	passwd, err := accountLines(root, "/etc/passwd")
	if err != nil {
		return identity{}, err
	}
	groups, err := accountLines(root, "/etc/group")
	if err != nil {
		return identity{}, err
	}
	return resolveUser(user, passwd, groups)
}

// resolveUser decides over the lines of passwd(5) and group(5).
func resolveUser(user string, passwd, groups [][]string) (identity, error) {
	name, group, hasGroup := strings.Cut(user, ":")
	if name == "" || (hasGroup && group == "") {
		return identity{}, fmt.Errorf("user %q: want uid, uid:gid, name or name:group", user)
	}
	who := identity{home: "/"}
	number, numberErr := parseID(name)
	known := false
	for _, fields := range passwd {
		if len(fields) < 6 {
			continue
		}
		uid, uidErr := parseID(fields[2])
		gid, gidErr := parseID(fields[3])
		if uidErr != nil || gidErr != nil {
			continue
		}
		if fields[0] == name || (numberErr == nil && uid == number) {
			who.uid, who.gid, name, known = uid, gid, fields[0], true
			if strings.HasPrefix(fields[5], "/") {
				who.home = fields[5]
			}
			break
		}
	}
	if !known {
		if numberErr != nil {
			return identity{}, fmt.Errorf("user %q is not in the image's /etc/passwd: name a user that is, or a number", name)
		}
		who.uid = number
		if number == 0 {
			who.home = "/root"
		}
	}
	if hasGroup {
		gid, err := resolveGroup(group, groups)
		if err != nil {
			return identity{}, err
		}
		who.gid = gid
		return who, nil
	}
	if known {
		who.groups = memberOf(name, who.gid, groups)
	}
	return who, nil
}

func resolveGroup(group string, groups [][]string) (uint32, error) {
	number, numberErr := parseID(group)
	for _, fields := range groups {
		if len(fields) < 3 || fields[0] != group {
			continue
		}
		if gid, err := parseID(fields[2]); err == nil {
			return gid, nil
		}
	}
	if numberErr != nil {
		return 0, fmt.Errorf("group %q is not in the image's /etc/group: name a group that is, or a number", group)
	}
	return number, nil
}

func memberOf(name string, primary uint32, groups [][]string) (ids []uint32) {
	for _, fields := range groups {
		if len(fields) < 4 || len(ids) == maxAccountGroups {
			continue
		}
		gid, err := parseID(fields[2])
		if err != nil || gid == primary || slices.Contains(ids, gid) {
			continue
		}
		if slices.Contains(strings.Split(fields[3], ","), name) {
			ids = append(ids, gid)
		}
	}
	return ids
}

// parseID reads a user or group number. The highest means "none" to the kernel.
func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, err
	}
	if id == 1<<32-1 {
		return 0, strconv.ErrRange
	}
	return uint32(id), nil
}

// accountLines reads a file of colon-separated lines out of a root filesystem. A
// missing file has none.
func accountLines(root, name string) ([][]string, error) {
	file, err := scoped.ReadFile(root, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return parseAccounts(file)
}

func parseAccounts(from io.Reader) ([][]string, error) {
	var lines [][]string
	scanner := bufio.NewScanner(io.LimitReader(from, maxAccountFile))
	scanner.Buffer(nil, maxAccountLine)
	for scanner.Scan() {
		line := strings.TrimSpace(scanner.Text())
		if line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.Split(line, ":"))
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("read the image's accounts: %w", err)
	}
	return lines, nil
}
