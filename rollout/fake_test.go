package rollout

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// trouble is what happens to requests: an error before the API server has done
// what was asked for, or in place of its answer.
type trouble func(clienttesting.Action) (before, after error)

// process is a controller as one process of several has it, on a fake cluster.
func process(server *fake.Clientset, troubles ...trouble) *Controller {
	kube := &fake.Clientset{}
	kube.AddReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		for _, trouble := range troubles {
			if before, after := trouble(action); before != nil || after != nil {
				if before != nil {
					return true, nil, before
				}
				_, _ = server.Invokes(action, nil) // nobody hears of it
				return true, nil, after
			}
		}
		object, err := server.Invokes(action, nil)
		return true, object, err
	})
	kube.AddWatchReactor("*", func(action clienttesting.Action) (bool, apiwatch.Interface, error) {
		all, err := server.InvokesWatch(action)
		if err != nil {
			return true, nil, err
		}
		name, one := action.(clienttesting.WatchAction).GetWatchRestrictions().Fields.RequiresExactMatch("metadata.name")
		if !one {
			return true, all, nil
		}
		return true, named(all, name), nil
	})
	return &Controller{clients: &clients{kube: kube, log: zap.NewNop(), patience: time.Second, presences: newPresences(kube.CoordinationV1(), zap.NewNop()),
		recent: &recent{known: map[Target]*remembered{}}}, clock: time.Now, notify: func(Record) {}}
}

// named are the events of the object with that name, until nobody wants them any more.
func named(all apiwatch.Interface, name string) apiwatch.Interface {
	found := make(chan apiwatch.Event)
	of := apiwatch.NewProxyWatcher(found)
	go func() {
		defer all.Stop()
		for {
			select {
			case <-of.StopChan():
				return
			case e := <-all.ResultChan():
				if accessor, err := meta.Accessor(e.Object); err != nil || accessor.GetName() != name {
					continue
				}
				select {
				case <-of.StopChan():
					return
				case found <- e:
				}
			}
		}
	}()
	return of
}

var shop = Target{App: "shop", Namespace: "x"}

// versioned lets a fake API server count versions and refuse stale updates, as a real one does.
func versioned(kube *fake.Clientset) {
	var version atomic.Int64
	write := func(action clienttesting.Action) (bool, runtime.Object, error) {
		object := action.(interface{ GetObject() runtime.Object }).GetObject().DeepCopyObject()
		accessor, err := meta.Accessor(object)
		if err != nil {
			return true, nil, err
		}
		resource, namespace := action.GetResource(), action.GetNamespace()
		if action.GetVerb() == "update" {
			current, err := kube.Tracker().Get(resource, namespace, accessor.GetName())
			if err != nil {
				return true, nil, err
			}
			have, err := meta.Accessor(current)
			if err != nil {
				return true, nil, err
			}
			if want := accessor.GetResourceVersion(); want != "" && want != have.GetResourceVersion() {
				return true, nil, apierrors.NewConflict(resource.GroupResource(), accessor.GetName(), fmt.Errorf("it is %s", have.GetResourceVersion()))
			}
		}
		accessor.SetResourceVersion(strconv.FormatInt(version.Add(1), 10))
		if action.GetVerb() == "update" {
			return true, object, kube.Tracker().Update(resource, object, namespace)
		}
		return true, object, kube.Tracker().Create(resource, object, namespace)
	}
	kube.PrependReactor("create", "*", write)
	kube.PrependReactor("update", "*", write)
}
