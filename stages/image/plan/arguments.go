package plan

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// setArgs brings arguments into scope: the command line's value, or the
// instruction's default, or the value of a global or automatic argument.
func (w *walker) setArgs(c *instructions.ArgCommand) error {
	var words []string
	for _, arg := range c.Args {
		w.checkSecret("ARG", arg.Key)
		value, set := w.options.Args[arg.Key]
		private := set
		w.used[arg.Key] = true
		switch {
		case set:
		case arg.Value != nil:
			result, err := w.process(*arg.Value, w.env)
			w.checkUndefined(result.Unmatched)
			if err != nil {
				return err
			}
			value, set, private = result.Result, true, w.env.anyPrivate(result.Matched)
		default:
			value, set = w.globals.Get(arg.Key)
			private = w.globals.private[arg.Key]
		}
		if !w.declared[arg.Key] {
			w.declared[arg.Key] = true
			w.arguments = append(w.arguments, arg.Key)
		}
		word := arg.Key
		switch {
		case set && !private:
			word += "=" + value
		case arg.Value != nil:
			// The default is public, it stands in the file. What the command line
			// gave may not be, and history travels with the image.
			word += "=" + *arg.Value
		}
		words = append(words, word)
		if len(value) > maxValue {
			return fmt.Errorf("ARG %s: %w", arg.Key, errExpansion)
		}
		if set {
			w.env.setArgument(arg.Key, value, private)
		}
	}
	w.history(false, "ARG "+strings.Join(words, " "))
	return nil
}

// argumentPrefix is how history notes the arguments a RUN sees: "|2 A=1 B=2 ".
// Values from the command line are left out.
func (w *walker) argumentPrefix() string {
	if len(w.arguments) == 0 {
		return ""
	}
	text := fmt.Sprintf("|%d ", len(w.arguments))
	for _, name := range w.arguments {
		text += name
		if !w.env.private[name] {
			value, _ := w.env.Get(name)
			text += "=" + value
		}
		text += " "
	}
	return text
}
