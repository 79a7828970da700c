package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// How soon, and at most how seldom, a receiver that can't be told is tried again.
const (
	leftoverFirst = 5 * time.Second
	leftoverMost  = 5 * time.Minute
	// leftoverTurn bounds one turn: a rollout that begins meanwhile tells by itself.
	leftoverTurn = time.Minute
)

// leftoverKey marks a cached record that has something left to be told. What
// else the record holds is not kept in memory.
const leftoverKey = "leftover"

// TellLeftovers tells the controller's receivers what processes that are gone
// left untold in a namespace (all with ""), until ctx ends: commands that were
// given without a server, and ends that a receiver which was away missed. It
// watches the records and makes no request while nothing is left.
func (c *Controller) TellLeftovers(ctx context.Context, namespace string) error {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[Target](leftoverFirst, leftoverMost))
	factory := informers.NewSharedInformerFactoryWithOptions(c.clients.kube, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = labelRecord + "=true" }),
		informers.WithTransform(c.onlyLeftover))
	see := func(object any) {
		if m, ok := object.(*corev1.ConfigMap); ok && m.Data[leftoverKey] != "" {
			queue.Add(Target{App: m.Data[leftoverKey], Namespace: m.Namespace})
		}
	}
	if _, err := factory.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: see, UpdateFunc: func(_, now any) { see(now) }}); err != nil {
		return fmt.Errorf("watching the records of namespace %s: %w", namespace, err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	stopped := context.AfterFunc(ctx, queue.ShutDown)
	defer stopped()
	for {
		target, over := queue.Get()
		if over {
			return nil
		}
		left, err := c.tellLeft(ctx, target)
		if err != nil && ctx.Err() == nil {
			c.clients.log.Warn("what is left to be told waits", zap.String("app", target.App), zap.String("namespace", target.Namespace), zap.Error(err))
		}
		if left || err != nil {
			queue.AddRateLimited(target)
		} else {
			queue.Forget(target)
		}
		queue.Done(target)
	}
}

// onlyLeftover keeps of a record whether it has something left to be told.
func (c *Controller) onlyLeftover(object any) (any, error) {
	m, ok := object.(*corev1.ConfigMap)
	if !ok {
		return object, nil
	}
	slim := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion}}
	if _, done := m.Data[recordKey]; !done { // the transformer may see its own work again
		slim.Data = m.Data
		return slim, nil
	}
	if record, err := decodeRecord(m); err == nil && record.App != "" && !record.Live() && c.leftIn(record) {
		slim.Data = map[string]string{leftoverKey: record.App}
	}
	return slim, nil
}

// leftIn tells whether one of the controller's receivers has something to hear.
func (c *Controller) leftIn(record *Record) bool {
	for _, receiver := range c.receivers {
		if len(record.Outbox.untold(receiver.Name())) > 0 {
			return true
		}
	}
	return false
}

// tellLeft takes one turn, and tells whether something is left after it.
func (c *Controller) tellLeft(ctx context.Context, target Target) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, leftoverTurn)
	defer cancel()
	record, owner, err := c.Status(ctx, target)
	switch {
	case errors.Is(err, ErrNotFound):
		return false, nil
	case err != nil:
		return true, err
	case record.Live() || !c.leftIn(record):
		return false, nil // whoever drives it tells, and its end is seen
	case owner != "":
		return true, nil
	}
	d, err := c.own(ctx, c.store(target), nil, func(Progress) {})
	if err != nil {
		return true, err
	}
	d.close() // tells
	return c.leftIn(d.record), nil
}
