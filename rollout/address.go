package rollout

import (
	"cmp"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// addresses are where the named pods serve: at the port that a Service of the
// release sends traffic to, else at their first one, else without a port.
func (o *observer) addresses(release *manifest.Release, names []string) []string {
	var found []string
	for _, name := range names {
		pod, err := o.pods.Pods(o.store.namespace).Get(name)
		if err != nil || pod.Status.PodIP == "" {
			continue
		}
		address := pod.Status.PodIP
		if port := servingPort(release, pod); port != 0 {
			address = net.JoinHostPort(address, strconv.Itoa(int(port)))
		}
		if !slices.Contains(found, address) {
			found = append(found, address)
		}
	}
	return found
}

func servingPort(release *manifest.Release, pod *corev1.Pod) int32 {
	var named []corev1.ContainerPort
	for _, c := range pod.Spec.Containers {
		named = append(named, c.Ports...)
	}
	for _, u := range release.Objects {
		if u.GetKind() != "Service" || u.GetAPIVersion() != "v1" {
			continue
		}
		var service corev1.Service
		if runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &service) != nil || len(service.Spec.Ports) == 0 || len(service.Spec.Selector) == 0 ||
			!labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			continue
		}
		first := service.Spec.Ports[0]
		if first.TargetPort.StrVal == "" {
			return cmp.Or(first.TargetPort.IntVal, first.Port)
		}
		for _, port := range named {
			if port.Name == first.TargetPort.StrVal {
				return port.ContainerPort
			}
		}
	}
	if len(named) > 0 {
		return named[0].ContainerPort
	}
	return 0
}
