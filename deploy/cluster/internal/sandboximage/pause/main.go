// Command pause is the whole content of the sandbox image: the first process of
// a pod, which holds its namespaces open, collects orphans when containers share
// the process namespace, and ends when asked to.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	_, _ = os.Stdout.WriteString("ready to end\n") // for whoever wants to ask it to
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		// One signal may stand for many dead children.
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}
