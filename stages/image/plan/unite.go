package plan

import (
	"reflect"
)

// Unite makes plans of one Dockerfile for several platforms share the stages
// that are the same for them, such as one FROM --platform=$BUILDPLATFORM that
// takes no TARGET argument. A shared stage is one *Stage. It returns, for every
// stage, the indexes of the plans that have it.
func Unite(plans []*Plan) map[*Stage][]int {
	users := map[*Stage][]int{}
	known := map[int][]*Stage{}
	for n, p := range plans {
		replaced := map[*Stage]*Stage{}
		for i, s := range p.Stages {
			// The stages it needs come before it, and are shared already.
			s.redirect(replaced)
			same := find(known[s.Index], s)
			if same == nil {
				same = s
				known[s.Index] = append(known[s.Index], s)
			}
			replaced[s], p.Stages[i] = same, same
			users[same] = append(users[same], n)
		}
		p.Target = replaced[p.Target]
	}
	return users
}

func find(among []*Stage, like *Stage) *Stage {
	for _, s := range among {
		if reflect.DeepEqual(s, like) {
			return s
		}
	}
	return nil
}

// redirect makes the stage use others in place of those it was planned with.
func (s *Stage) redirect(replaced map[*Stage]*Stage) {
	use := func(source *Source) {
		if same := replaced[source.Stage]; same != nil {
			source.Stage = same
		}
	}
	use(&s.Base)
	for i := range s.Steps {
		step := &s.Steps[i]
		if step.Copy != nil {
			use(&step.Copy.From)
		}
		if step.Run != nil {
			for m := range step.Run.Mounts {
				use(&step.Run.Mounts[m].From)
			}
		}
	}
}
