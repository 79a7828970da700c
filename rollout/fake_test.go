package rollout

import (
	"fmt"
	"strconv"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

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
