package github

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	gh "github.com/google/go-github/v60/github"
)

// DeploymentState is what a deployment's status can say.
type DeploymentState string

// The states that GitHub knows ("Create a deployment status").
const (
	DeploymentQueued     DeploymentState = "queued"
	DeploymentInProgress DeploymentState = "in_progress"
	DeploymentSuccess    DeploymentState = "success"
	DeploymentFailure    DeploymentState = "failure"
	DeploymentError      DeploymentState = "error"
	DeploymentInactive   DeploymentState = "inactive"
)

// Deployment is a release of a commit in an environment.
type Deployment struct {
	Repository  string
	Commit      string
	Environment string
	// Key is unique among the deployments of the repository: one that has it
	// already is this one.
	Key         string
	Description string // one line; what is longer than 140 characters is cut
}

// deploymentPayload is what tells our deployments apart.
type deploymentPayload struct {
	Key string `json:"tidegate"`
}

// maxDeployments is how many of a commit's newest deployments to an environment
// are looked through; GitHub's largest page.
const maxDeployments = 100

// Deployment finds the deployment, or makes it, and returns its id.
func (c *Client) Deployment(ctx context.Context, d Deployment) (int64, error) {
	owner, name, err := split(d.Repository, d.Commit)
	if err != nil {
		return 0, fmt.Errorf("report deployment: %w", err)
	}
	doing := fmt.Sprintf("report deployment of %s at %s", d.Repository, d.Commit)
	var known []*gh.Deployment
	if err := c.again(ctx, doing, func() (response *gh.Response, err error) {
		known, response, err = c.github.Repositories.ListDeployments(ctx, owner, name, &gh.DeploymentsListOptions{
			SHA: d.Commit, Environment: d.Environment, ListOptions: gh.ListOptions{PerPage: maxDeployments}})
		return response, err
	}); err != nil {
		return 0, err
	}
	for _, deployment := range known {
		if keyOf(deployment.Payload) == d.Key {
			return deployment.GetID(), nil
		}
	}
	var made *gh.Deployment
	err = c.again(ctx, doing, func() (response *gh.Response, err error) {
		made, response, err = c.github.Repositories.CreateDeployment(ctx, owner, name, &gh.DeploymentRequest{
			Ref: gh.String(d.Commit), Task: gh.String("deploy"), Environment: gh.String(clip(d.Environment, maxContext)),
			Description: gh.String(oneLine(d.Description, maxDescription)), Payload: deploymentPayload{Key: d.Key},
			// What is deployed is decided here: nothing is merged, and no check is waited for.
			AutoMerge: gh.Bool(false), RequiredContexts: &[]string{},
		})
		return response, err
	})
	return made.GetID(), err
}

// keyOf reads a payload, which GitHub gives back as it was or as text.
func keyOf(payload json.RawMessage) string {
	var text string
	if json.Unmarshal(payload, &text) == nil {
		payload = json.RawMessage(text)
	}
	var p deploymentPayload
	if json.Unmarshal(payload, &p) != nil {
		return ""
	}
	return p.Key
}

// DeploymentStatus says how a deployment stands. Success makes earlier ones of
// the environment inactive.
func (c *Client) DeploymentStatus(ctx context.Context, repository string, id int64, state DeploymentState, description string) error {
	owner, name, ok := strings.Cut(repository, "/")
	if !ok || !validFullName(repository) {
		return fmt.Errorf("report deployment: %q is not a repository", repository)
	}
	return c.again(ctx, fmt.Sprintf("report %s of deployment %d of %s", state, id, repository), func() (*gh.Response, error) {
		_, response, err := c.github.Repositories.CreateDeploymentStatus(ctx, owner, name, id, &gh.DeploymentStatusRequest{
			State: gh.String(string(state)), Description: gh.String(oneLine(description, maxDescription)), AutoInactive: gh.Bool(true)})
		return response, err
	})
}
