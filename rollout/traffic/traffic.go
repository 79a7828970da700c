// Package traffic shares out requests between two Services by the routes of
// routers: Gateway API, Ingress-NGINX, Istio and Traefik. It is pure: a live
// object, our two Services and a split in, the changed object out. Nothing of a
// route is changed but what is said of these two Services: other rules, other
// backends and all other fields stay as they are.
package traffic

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Kind names a router.
type Kind string

// The routers.
const (
	Gateway Kind = "gateway" // HTTPRoutes of any implementation of Gateway API
	Nginx   Kind = "nginx"   // Ingresses of Ingress-NGINX
	Istio   Kind = "istio"   // VirtualServices
	Traefik Kind = "traefik" // TraefikServices
)

// Kinds lists the routers.
func Kinds() []Kind { return []Kind{Gateway, Nginx, Istio, Traefik} }

// Match picks requests that go to the canary whatever the weight: those whose
// Header, or whose Cookie, has this very Value. One of the two is set.
type Match struct {
	Header string `json:"header,omitempty"`
	Cookie string `json:"cookie,omitempty"`
	Value  string `json:"value"`
}

// MaxMatch bounds the text of a match, in bytes.
const MaxMatch = 256

var (
	token       = lazyregexp.New("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$") // RFC 9110, section 5.6.2
	headerValue = lazyregexp.New(`^[!-~]([ -~]*[!-~])?$`)
	cookieValue = lazyregexp.New(`^[!#-+\--:<-\[\]-~]+$`) // RFC 6265, section 4.1.1
)

// Check refuses a match that no router can do.
func (m *Match) Check() error {
	switch {
	case m == nil:
		return nil
	case (m.Header == "") == (m.Cookie == ""):
		return errors.New("a match names a header or a cookie, and one of them")
	case len(m.Header)+len(m.Cookie)+len(m.Value) > MaxMatch:
		return fmt.Errorf("a match is longer than %d bytes", MaxMatch)
	case m.Header != "" && !token().MatchString(m.Header):
		return fmt.Errorf("%q is no name of a header", m.Header)
	case m.Header != "" && !headerValue().MatchString(m.Value):
		return fmt.Errorf("%q can't be the value of a header", m.Value)
	case m.Cookie != "" && !token().MatchString(m.Cookie):
		return fmt.Errorf("%q is no name of a cookie", m.Cookie)
	case m.Cookie != "" && !cookieValue().MatchString(m.Value):
		return fmt.Errorf("%q can't be the value of a cookie", m.Value)
	}
	return nil
}

// String tells people what is matched.
func (m *Match) String() string {
	switch {
	case m == nil:
		return ""
	case m.Header != "":
		return fmt.Sprintf("requests with %s: %s", m.Header, m.Value)
	}
	return fmt.Sprintf("requests with the cookie %s=%s", m.Cookie, m.Value)
}

// Split is how requests are shared out. The zero value gives the canary none.
type Split struct {
	// Weight is the canary's share in percent of what the Services get together, 0
	// to 100, Baseline that of its baseline. The stable Service has the rest.
	Weight   int `json:"weight"`
	Baseline int `json:"baseline,omitempty"`
	// Match picks requests that go to the canary beside those; nil picks none.
	Match *Match `json:"match,omitempty"`
}

// None tells whether canary and baseline get nothing.
func (s Split) None() bool { return s.Weight == 0 && s.Baseline == 0 && s.Match == nil }

// Same tells whether two splits are one.
func (s Split) Same(other Split) bool {
	return s.Weight == other.Weight && s.Baseline == other.Baseline && (s.Match == nil) == (other.Match == nil) && (s.Match == nil || *s.Match == *other.Match)
}

// String tells people how requests are shared out.
func (s Split) String() string {
	text := fmt.Sprintf("%d %%", s.Weight)
	if s.Baseline > 0 {
		text += fmt.Sprintf(" (and %d %% to its baseline)", s.Baseline)
	}
	if s.Match != nil {
		text += ", and " + s.Match.String()
	}
	return text
}

// Pair is a Service of ours and those of its canary and of the canary's
// baseline, in the route's namespace. Baseline is empty where there is none.
type Pair struct {
	Stable, Canary, Baseline string
}

// Backends are ours in one route. All get the same split.
type Backends []Pair

// String lists the stable Services.
func (b Backends) String() string {
	names := make([]string, len(b))
	for i, pair := range b {
		names[i] = pair.Stable
	}
	return strings.Join(names, ", ")
}

// State is what a route gives the canary.
type State struct {
	// Split is what it was last told to; Weight and Baseline of it, when others
	// changed that, are the greatest shares that those have in any rule.
	Split
	// Touched tells that something of ours is in the route; Intact that it is as
	// it was written. An untouched route is intact.
	Touched, Intact bool
}

// Reported is what a router says of the newest version of its route.
type Reported struct {
	// Taken tells that it routes by it. Silent routers do not tell: theirs counts
	// as taken when it is written.
	Taken, Silent bool
	// Why says what is waited for, when it is not taken.
	Why string
}

// Router knows the routes of one kind. All methods are pure and change none of
// their arguments.
type Router interface {
	// Kinds of the objects that routes are, best version first.
	Kinds() []schema.GroupVersionKind
	// Services are those of its own namespace that a route sends to, by name.
	Services(route *unstructured.Unstructured) []string
	// Can refuses a split that routes of this kind can't express.
	Can(s Split) error
	// Holder names the object that the split of a route is written to: the route
	// itself, or one beside it that is ours alone.
	Holder(route manifest.Ref) manifest.Ref
	// Split returns the holder as it gives the canary its share. held is the
	// holder as it is; nil when that is an object of ours which is not there yet.
	Split(route, held *unstructured.Unstructured, b Backends, s Split) (*unstructured.Unstructured, error)
	// Clear returns the holder as it was before the first split; nil when it is
	// ours alone and is to be deleted.
	Clear(held *unstructured.Unstructured, b Backends) (*unstructured.Unstructured, error)
	// Read tells what a holder gives the canary now; nil is one that does not exist.
	Read(held *unstructured.Unstructured, b Backends) State
	// Reported tells whether the router has taken what the holder says; nil is one
	// that does not exist.
	Reported(held *unstructured.Unstructured) Reported
}

// For finds a router; nil for a kind that there is not.
func For(kind Kind) Router {
	switch kind {
	case Gateway:
		return httpRoutes{httpRouteRules}
	case Nginx:
		return ingresses{}
	case Istio:
		return virtualServices{virtualServiceRules}
	case Traefik:
		return traefikServices{traefikServiceRules}
	}
	return nil
}

// Resource is what kubectl calls one route of the kind, such as "httproute".
func (k Kind) Resource() string {
	switch k {
	case Gateway:
		return "httproute"
	case Nginx:
		return "ingress"
	case Istio:
		return "virtualservice"
	case Traefik:
		return "traefikservice"
	}
	return ""
}

// Parse reads a route as kubectl names it, such as "httproute/shop".
func Parse(text string) (Kind, string, error) {
	resource, name, ok := strings.Cut(text, "/")
	for _, kind := range Kinds() {
		if ok && name != "" && resource == kind.Resource() {
			return kind, name, nil
		}
	}
	return "", "", fmt.Errorf("%q: write httproute/NAME, ingress/NAME, virtualservice/NAME or traefikservice/NAME", text)
}

// Annotation on a holder keeps what it was told, and what it said before, so
// that any process can put that back.
const Annotation = "tidegate.dev/traffic"

// maxMark bounds the annotation that is read.
const maxMark = 16 << 10

// mark is the annotation's value.
type mark struct {
	Split
	// Own are the weights of stable Services before, by rule that has one; nil
	// where it had no weight.
	Own []*int64 `json:"own,omitempty"`
}

// markOf reads the annotation; nil when there is none that can be read.
func markOf(u *unstructured.Unstructured) *mark {
	text := u.GetAnnotations()[Annotation]
	if text == "" || len(text) > maxMark {
		return nil
	}
	var m mark
	if json.Unmarshal([]byte(text), &m) != nil || min(m.Weight, m.Baseline) < 0 || m.Weight+m.Baseline > 100 || m.Match.Check() != nil {
		return nil
	}
	return &m
}

func setMark(u *unstructured.Unstructured, m *mark) error {
	annotations := maps.Clone(u.GetAnnotations())
	if m == nil {
		delete(annotations, Annotation)
	} else {
		text, err := json.Marshal(m)
		if err != nil {
			return fmt.Errorf("%s: %w", manifest.RefOf(u), err)
		}
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[Annotation] = string(text)
	}
	if len(annotations) == 0 {
		annotations = nil
	}
	u.SetAnnotations(annotations)
	return nil
}
