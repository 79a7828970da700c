package sandbox

// Setup changes what a container is like for its command. The zero value
// changes nothing.
type Setup struct {
	// Hosts are further entries of /etc/hosts.
	Hosts []Host
	// SharedMemory is the size of /dev/shm in bytes; 0 means 64 MiB.
	SharedMemory int64
	// Limits are resource limits of its processes, see setrlimit(2).
	Limits []Limit
}

// Host is a name and the address it stands for.
type Host struct{ Name, Address string }

// Limit is a resource limit; -1 is no limit.
type Limit struct {
	// Name is as ulimit of Docker has it, such as nofile.
	Name       string
	Soft, Hard int64
}

// IsZero tells whether it changes nothing.
func (s Setup) IsZero() bool { return len(s.Hosts) == 0 && s.SharedMemory == 0 && len(s.Limits) == 0 }
