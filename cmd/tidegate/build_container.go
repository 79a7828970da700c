package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/tidegate-ci/tidegate/stages/image"
)

// buildContainerFlags say what the containers of RUN are like, and which steps
// are made anew.
type buildContainerFlags struct {
	hosts, ulimits, noCacheFilter, allow []string
	sharedMemory, memory                 string
	pull                                 bool
	given                                *pflag.FlagSet
}

func (f *buildContainerFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.hosts, "add-host", nil, "entry of /etc/hosts for RUN, NAME:ADDRESS; may be repeated")
	flags.StringVar(&f.sharedMemory, "shm-size", "", "size of /dev/shm for RUN, such as 128m (default 64m)")
	flags.StringArrayVar(&f.ulimits, "ulimit", nil, "resource limit for RUN, NAME=SOFT[:HARD], such as nofile=1024:2048; may be repeated")
	flags.StringVarP(&f.memory, "memory", "m", "", "memory limit of each RUN, such as 512m")
	flags.StringSliceVar(&f.noCacheFilter, "no-cache-filter", nil, "make the steps of these stages anew; may be repeated")
	flags.BoolVar(&f.pull, "pull", false, "look base images up anew, as every build does")
	flags.StringSliceVar(&f.allow, "allow", nil, "what a RUN may ask for: network.host, which it always may")
	f.given = flags
	for name, reason := range refusedFlags {
		flag := flags.VarPF(new(refusedFlag), name, "", reason)
		if flag.Hidden = true; name == "squash" { // it takes no value
			flag.NoOptDefVal = "true"
		}
	}
	for _, name := range silentFlags {
		flags.Bool(name, false, "accepted for docker's sake: it decides nothing here")
		_ = flags.MarkHidden(name) // the flag exists
	}
}

// refusedFlags are those of docker build that there is nothing for here.
var refusedFlags = map[string]string{
	"builder":       "there are no builder instances: the build runs in this process; a build stage can have with: buildkit",
	"call":          "build checks are warnings of every build",
	"cgroup-parent": "each RUN has a control group of its own below /tidegate: bound it with --memory",
	"cpu-period":    "processors of a RUN are not bounded by flags: run the build itself in a control group",
	"cpu-quota":     "processors of a RUN are not bounded by flags: run the build itself in a control group",
	"cpu-shares":    "processors of a RUN are not bounded by flags: run the build itself in a control group",
	"cpuset-cpus":   "processors of a RUN are not bounded by flags: run the build itself in a control group",
	"cpuset-mems":   "processors of a RUN are not bounded by flags: run the build itself in a control group",
	"isolation":     "isolation is for Windows; commands always run in a container",
	"memory-swap":   "memory and swap together are bounded by --memory",
	"security-opt":  "commands always run with the default seccomp profile and without new privileges",
	"squash":        "layers are not squashed: copy what is wanted into a last stage FROM scratch",
}

// silentFlags ask for what is so anyway.
var silentFlags = []string{"compress", "force-rm", "rm"}

// refusedFlag takes any value: what is said about it comes after parsing.
type refusedFlag struct{}

func (*refusedFlag) String() string   { return "" }
func (*refusedFlag) Set(string) error { return nil }
func (*refusedFlag) Type() string     { return "" }

// container works the flags into the request.
func (f *buildContainerFlags) container(r *image.Request) error {
	var refused []string
	f.given.Visit(func(flag *pflag.Flag) {
		if reason, ok := refusedFlags[flag.Name]; ok {
			refused = append(refused, fmt.Sprintf("--%s: %s", flag.Name, reason))
		}
	})
	if len(refused) > 0 {
		return usageErrorf("%s", refused[0])
	}
	for _, entitlement := range f.allow {
		if entitlement != "network.host" {
			return usageErrorf("--allow %s: commands always run unprivileged and without devices; only network.host can be allowed", entitlement)
		}
	}
	for _, text := range f.hosts {
		host, err := image.ParseHost(text)
		if err != nil {
			return usageErrorf("--add-host: %w", err)
		}
		r.Setup.Hosts = append(r.Setup.Hosts, host)
	}
	for _, text := range f.ulimits {
		limit, err := image.ParseLimit(text)
		if err != nil {
			return usageErrorf("--ulimit: %w", err)
		}
		r.Setup.Limits = append(r.Setup.Limits, limit)
	}
	for _, size := range []struct {
		flag, text string
		to         *int64
	}{{"--shm-size", f.sharedMemory, &r.Setup.SharedMemory}, {"--memory", f.memory, &r.MemoryBytes}} {
		if size.text == "" {
			continue
		}
		n, err := image.ParseBytes(size.text)
		if err != nil {
			return usageErrorf("%s: %w", size.flag, err)
		}
		*size.to = n
	}
	r.NoCacheStages = f.noCacheFilter
	return nil
}
