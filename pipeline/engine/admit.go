package engine

// traits is what the queue needs to know of an unfinished run; it never
// changes but for cancelled.
type traits struct {
	repository       string
	group            string // of concurrency; empty means none
	cancelInProgress bool
	cancelled        bool // somebody asked for the end
}

// candidate is an unfinished run as the queue sees it.
type candidate struct {
	id string
	traits
	started   bool // some worker has begun it, in this life or an earlier one
	active    bool // a runner of this engine drives it
	waiting   bool // it is active and waits for a person or a turn
	elsewhere bool // another worker holds its lease
}

// supersession is a run that makes place for a newer one of its group.
type supersession struct{ id, by string }

// admit tells which runs to drive now and which to cancel for newer ones. Runs
// come oldest first. Within a concurrency group one run is driven at a time,
// in order; nothing is dropped but by cancel-in-progress, which cancels older
// runs of the group, queued ones included, on the record.
func admit(runs []candidate, limits Limits) (start []string, supersede []supersession) {
	type group struct{ repository, name string }
	newestCancelling := map[group]int{}
	holders := map[group]bool{} // groups of which a run was begun
	for i, r := range runs {
		g := group{r.repository, r.group}
		if r.group == "" {
			continue
		}
		if r.cancelInProgress && !r.cancelled {
			newestCancelling[g] = i
		}
		holders[g] = holders[g] || r.started || r.active
	}
	total := 0
	perRepository := map[string]int{}
	for _, r := range runs {
		if r.active && !r.waiting {
			total++
			perRepository[r.repository]++
		}
	}
	queues := map[string][]string{} // of runs that may start, by repository
	var repositories []string
	ahead := map[group]bool{} // groups with an unfinished run before this one
	for i, r := range runs {
		g := group{r.repository, r.group}
		if by, ok := newestCancelling[g]; ok && r.group != "" && i < by && !r.cancelled {
			supersede = append(supersede, supersession{r.id, runs[by].id})
		}
		blocked := r.group != "" && (ahead[g] || holders[g])
		ahead[g] = true
		switch {
		case r.active || r.elsewhere:
		case r.started, r.cancelled:
			// Begun runs were admitted before; cancelled ones only need their end.
			start = append(start, r.id)
			if !r.cancelled {
				total++
				perRepository[r.repository]++
			}
		case !blocked:
			if queues[r.repository] == nil {
				repositories = append(repositories, r.repository)
			}
			queues[r.repository] = append(queues[r.repository], r.id)
		}
	}
	for total < limits.Runs {
		best := ""
		found := false
		for _, repository := range repositories {
			if len(queues[repository]) == 0 || perRepository[repository] >= limits.PerRepository {
				continue
			}
			if !found || perRepository[repository] < perRepository[best] {
				best, found = repository, true
			}
		}
		if !found {
			break
		}
		start = append(start, queues[best][0])
		queues[best] = queues[best][1:]
		total++
		perRepository[best]++
	}
	return start, supersede
}
