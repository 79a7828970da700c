package cluster

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/render"
)

// State of a component.
type State string

// States of a component.
const (
	Healthy   State = "healthy"
	Unhealthy State = "unhealthy" // runs, but does not say that it is well
	Stopped   State = "stopped"   // was never started or was stopped
	Died      State = "died"      // ended by itself
)

// ComponentStatus is one component as it is now.
type ComponentStatus struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// PID is 0 if it does not run.
	PID     int        `json:"pid,omitempty"`
	Started *time.Time `json:"started,omitempty"`
	// Problem says why it is not healthy.
	Problem string `json:"problem,omitempty"`
	Log     string `json:"log"`
}

// NodeStatus is the node as the API server knows it.
type NodeStatus struct {
	Name    string `json:"name"`
	Ready   bool   `json:"ready"`
	Version string `json:"version,omitempty"`
	Runtime string `json:"runtime,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// Status is the whole cluster as it is now.
type Status struct {
	Healthy    bool              `json:"healthy"`
	StateDir   string            `json:"stateDir"`
	Server     string            `json:"server"`
	Kubeconfig string            `json:"kubeconfig"`
	Version    string            `json:"version,omitempty"`
	Components []ComponentStatus `json:"components"`
	Node       NodeStatus        `json:"node"`
}

// Status looks at every component and the node. A problem is part of the answer,
// never an error.
func (c *Cluster) Status(ctx context.Context) Status {
	s := Status{Healthy: true, StateDir: c.StateDir, Server: c.APIServer(), Kubeconfig: c.Kubeconfig()}
	s.Components = make([]ComponentStatus, len(render.Processes()))
	var group sync.WaitGroup
	for i, name := range render.Processes() {
		group.Go(func() { s.Components[i] = c.componentStatus(ctx, name) })
	}
	group.Wait()
	apiServer := false
	for _, component := range s.Components {
		s.Healthy = s.Healthy && component.State == Healthy
		apiServer = apiServer || component.Name == render.APIServer && component.State == Healthy
	}
	s.Node = NodeStatus{Name: c.Node, Problem: "the API server does not answer"}
	if apiServer {
		s.Version, s.Node = c.nodeStatus(ctx)
	}
	s.Healthy = s.Healthy && s.Node.Ready
	return s
}

func (c *Cluster) componentStatus(ctx context.Context, name string) ComponentStatus {
	status := ComponentStatus{Name: name, State: Stopped, Log: c.Log(name)}
	record, found := c.record(name)
	if !found {
		return status
	}
	status.Started = &record.Started
	if !record.Alive() {
		status.State, status.Problem = Died, "its log says why"
		return status
	}
	status.State, status.PID = Healthy, record.PID
	if err := c.probe(ctx, name); err != nil {
		status.State, status.Problem = Unhealthy, err.Error()
	}
	return status
}

func (c *Cluster) nodeStatus(ctx context.Context) (version string, status NodeStatus) {
	status = NodeStatus{Name: c.Node}
	api, err := c.client()
	if err != nil {
		status.Problem = err.Error()
		return "", status
	}
	if server, err := api.Discovery().ServerVersion(); err == nil {
		version = server.GitVersion
	}
	node, err := api.CoreV1().Nodes().Get(ctx, c.Node, metav1.GetOptions{})
	if err != nil {
		status.Problem = err.Error()
		return version, status
	}
	condition := readyCondition(node)
	status.Ready = condition.Status == corev1.ConditionTrue
	if !status.Ready {
		status.Problem = condition.Message
	}
	status.Version, status.Runtime = node.Status.NodeInfo.KubeletVersion, node.Status.NodeInfo.ContainerRuntimeVersion
	return version, status
}
