package rollout

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Cluster is where releases go.
type Cluster struct {
	Config *rest.Config
}

// FieldManager is the name under which Tidegate owns fields.
const FieldManager = "tidegate"

// Client-side limits, high enough for hundreds of rollouts at once: the API
// server's own fairness does the rest.
const (
	clientQPS   = 400
	clientBurst = 800
	callTimeout = 15 * time.Second
)

// clients talks to one cluster.
type clients struct {
	kube    kubernetes.Interface
	dynamic dynamic.Interface
	mapper  meta.ResettableRESTMapper
	log     *zap.Logger
	// watchers are what rollouts of one namespace share.
	watchers *watchers
	recent   *recent
	// presences show that this process lives.
	presences *presences
	// patience is how long an API server that does not answer is waited for.
	patience time.Duration
}

func newClients(cluster Cluster, log *zap.Logger, patience time.Duration) (*clients, error) {
	if cluster.Config == nil {
		return nil, fmt.Errorf("%w: no cluster configuration", ErrInvalid)
	}
	config := rest.CopyConfig(cluster.Config)
	config.QPS, config.Burst = clientQPS, clientBurst
	config.UserAgent = "tidegate"
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for the cluster: %w", err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for the cluster: %w", err)
	}
	// A sign of life does not wait for the requests of hundreds of rollouts.
	config = rest.CopyConfig(config)
	config.QPS = -1
	leases, err := coordinationclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for the cluster: %w", err)
	}
	return &clients{kube: kube, dynamic: dyn, log: log, patience: patience, presences: newPresences(leases, log), recent: &recent{known: map[Target]*remembered{}}, watchers: &watchers{kube: kube, shared: map[watchedKey]*watcher{}},
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kube.Discovery()))}, nil
}

// resource finds the client for objects like ref, and ref with its namespace
// corrected: cluster-scoped custom resources have none.
func (c *clients) resource(ref manifest.Ref) (dynamic.ResourceInterface, manifest.Ref, error) {
	gvk := ref.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, ref, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		ref.Namespace = ""
		return c.dynamic.Resource(mapping.Resource), ref, nil
	}
	return c.dynamic.Resource(mapping.Resource).Namespace(ref.Namespace), ref, nil
}

// Retry bounds.
const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
	// defaultPatience: an API server that restarts is away for seconds, one
	// that is being replaced for minutes. No rollout fails for that.
	defaultPatience = 10 * time.Minute
)

// retry repeats call while what hinders it can pass, as long as the clients' patience lasts.
func (c *clients) retry(ctx context.Context, doing string, call func(context.Context) error) error {
	started, wait := time.Now(), retryFirst
	for {
		bounded, cancel := context.WithTimeout(ctx, callTimeout)
		err := call(bounded)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
		case !transient(err):
			return fmt.Errorf("%s: %w", doing, err)
		case time.Since(started) > c.patience:
			return fmt.Errorf("%s, tried for %s: %w", doing, c.patience, err)
		}
		c.log.Warn("retrying a call to the API server", zap.String("doing", doing), zap.Error(err))
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok && time.Duration(seconds)*time.Second > wait {
			wait = min(time.Duration(seconds)*time.Second, retryMost)
		}
		if err := pause(ctx, wait); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		wait = min(2*wait, retryMost)
	}
}

// pause waits, or returns why ctx ended.
func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// transient tells whether an error may be gone when the same is tried again.
func transient(err error) bool {
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		// A webhook or aggregated API that is away answers with 500.
		code := status.Status().Code
		return code == http.StatusTooManyRequests || code >= http.StatusInternalServerError
	}
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		dns       *net.DNSError
		call      *url.Error
	)
	switch {
	case errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid):
		return false
	case errors.As(err, &dns) && dns.IsNotFound:
		return false
	}
	return errors.As(err, &call) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF)
}

// lostError marks that the application belongs to someone else now.
type lostError struct{ owner string }

func (e *lostError) Error() string { return "another process owns this rollout now: " + e.owner }
func (e *lostError) Unwrap() error { return ErrLost }
