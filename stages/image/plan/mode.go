package plan

import (
	"errors"
	"strconv"
	"strings"
)

// CheckMode tells whether text is a mode ApplyMode understands; empty is.
func CheckMode(text string) error {
	if text == "" {
		return nil
	}
	_, err := applyMode(text, 0, false)
	return err
}

// ApplyMode changes permission bits (setuid, setgid and sticky included, as the
// numbers 04000, 02000 and 01000) as chmod does: an octal number up to 7777
// replaces them; "u=rwX,go=rX" changes them. Text has passed CheckMode.
func ApplyMode(text string, mode uint32, directory bool) uint32 {
	changed, err := applyMode(text, mode, directory)
	if err != nil {
		return mode
	}
	return changed
}

func applyMode(text string, mode uint32, directory bool) (uint32, error) {
	if text[0] >= '0' && text[0] <= '9' {
		n, err := strconv.ParseUint(text, 8, 32)
		if err != nil || n > 0o7777 {
			return 0, errors.New("want an octal number up to 7777 or something like u=rwX,go=rX")
		}
		return uint32(n), nil
	}
	for _, clause := range strings.Split(text, ",") {
		var err error
		if mode, err = applyClause(clause, mode, directory); err != nil {
			return 0, err
		}
	}
	return mode, nil
}

func applyClause(clause string, mode uint32, directory bool) (uint32, error) {
	invalid := errors.New("want an octal number up to 7777 or something like u=rwX,go=rX")
	i := 0
	var who uint32 // the bits of the classes named, special bits included
	for ; i < len(clause) && strings.IndexByte("ugoa", clause[i]) >= 0; i++ {
		switch clause[i] {
		case 'u':
			who |= 0o4700
		case 'g':
			who |= 0o2070
		case 'o':
			who |= 0o1007
		case 'a':
			who |= 0o7777
		}
	}
	if who == 0 {
		who = 0o7777
	}
	if i == len(clause) {
		return 0, invalid
	}
	for i < len(clause) {
		operator := clause[i]
		if strings.IndexByte("+-=", operator) < 0 {
			return 0, invalid
		}
		var bits uint32
		for i++; i < len(clause) && strings.IndexByte("+-=", clause[i]) < 0; i++ {
			switch clause[i] {
			case 'r':
				bits |= 0o444
			case 'w':
				bits |= 0o222
			case 'x':
				bits |= 0o111
			case 'X':
				if directory || mode&0o111 != 0 {
					bits |= 0o111
				}
			case 's':
				bits |= 0o6000
			case 't':
				bits |= 0o1000
			case 'u':
				bits |= mode >> 6 & 7 * 0o111
			case 'g':
				bits |= mode >> 3 & 7 * 0o111
			case 'o':
				bits |= mode & 7 * 0o111
			default:
				return 0, invalid
			}
		}
		bits &= who
		switch operator {
		case '+':
			mode |= bits
		case '-':
			mode &^= bits
		case '=':
			mode = mode&^who | bits
		}
	}
	return mode, nil
}
