package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Capabilities are what the cluster can do, as templates of charts ask.
type Capabilities struct {
	// KubeVersion is the server's, such as "v1.36.1".
	KubeVersion string
	// APIVersions are "group/version" and "group/version/Kind" of all that is served.
	APIVersions []string
}

// Capabilities asks the cluster. An API that does not answer is left out.
func (c *Controller) Capabilities(ctx context.Context) (Capabilities, error) {
	var found Capabilities
	err := c.clients.retry(ctx, "asking what the cluster can do", func(context.Context) error {
		version, err := c.clients.kube.Discovery().ServerVersion()
		if err != nil {
			return err
		}
		_, lists, err := c.clients.kube.Discovery().ServerGroupsAndResources()
		if len(lists) == 0 && err != nil {
			return err
		}
		found = Capabilities{KubeVersion: version.GitVersion}
		for _, list := range lists {
			found.APIVersions = append(found.APIVersions, list.GroupVersion)
			for i := range list.APIResources {
				found.APIVersions = append(found.APIVersions, list.GroupVersion+"/"+list.APIResources[i].Kind)
			}
		}
		slices.Sort(found.APIVersions)
		found.APIVersions = slices.Compact(found.APIVersions)
		return nil
	})
	return found, err
}

// Installed tells whether a verified release of the application serves.
func (c *Controller) Installed(ctx context.Context, target Target) (bool, error) {
	record, _, err := c.store(target).load(ctx)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return false, fmt.Errorf("looking for what serves: %w", err)
	}
	return err == nil && record.Verified != 0, nil
}

// Unreachable tells whether an error is the API server's, not the release's.
func Unreachable(err error) bool { return transient(err) }
