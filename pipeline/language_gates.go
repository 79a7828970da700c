package pipeline

import (
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
)

// gateShape is one gate of a strategy with steps.
var gateShape = object{
	name: "gate", doc: "What must pass before a step is left.",
	fields: []field{
		{key: "metric", shape: metricShape, doc: "A judgement of what is measured."},
		{key: "job", shape: object{
			name: "job-gate", doc: "A Kubernetes Job that must complete.",
			fields: slices.Concat(gateFields, []field{advisory,
				{key: "manifest", shape: text{mode: valueText, check: checkPath}, required: true, doc: "A file that holds the Job. Its containers find the new pods in $TIDEGATE_CANARY_ADDRESS."},
			}),
		}, doc: "A Kubernetes Job that must complete."},
		{key: "webhook", shape: object{
			name: "webhook-gate", doc: "A URL that must say pass.",
			fields: slices.Concat(gateFields, []field{advisory,
				{key: "url", shape: text{mode: valueText, check: checkWebhook}, required: true, doc: "Asked by POST of JSON; answers {\"result\": \"pass\", \"fail\" or \"wait\"}."},
				{key: "secret", shape: secretKeyShape, doc: "The key that questions are signed with, HMAC-SHA256."},
				{key: "interval", shape: duration{time.Second, week}, doc: "Time between questions; 10s when not set."},
			}),
		}, doc: "A URL that must say pass."},
		{key: "approval", shape: object{
			name: "approval-gate", doc: "A person who must approve while the step serves.",
			fields: slices.Concat(gateFields, []field{advisory,
				{key: "from", shape: list{item: text{}, single: true, min: 1, max: 50, unique: true}, doc: "Who may approve, people or groups; anyone when not set."},
				{key: "message", shape: text{mode: valueText, maxLen: 2048}, doc: "What the person is told."},
			}),
		}, doc: "A person who must approve while the step serves."},
		{key: "cel", shape: object{
			name: "cel-gate", doc: "An expression over the facts of all other gates.",
			fields: slices.Concat(gateFields, []field{
				{key: "pass", shape: text{check: checkGateExpression}, required: true, doc: "True when the step may pass; over metrics, jobs, webhooks, approvals, health, stable, step, weight and serving."},
				{key: "fail", shape: text{check: checkGateExpression}, doc: "True when the release is to be taken back at once."},
			}),
		}, doc: "An expression over the facts of all other gates."},
	},
	rules: map[string]any{"minProperties": 1, "maxProperties": 1},
}

var gateFields = []field{
	{key: "name", shape: text{check: checkName, pattern: stageName.String()}, required: true, doc: "The gate's name, unique in the strategy."},
	{key: "steps", shape: list{item: number{1, 100}, single: true, min: 1, max: 100, unique: true}, doc: "The steps that it holds for, from 1; all when not set."},
	{key: "timeout", shape: duration{time.Second, week}, doc: "How long an answer is waited for once the step serves; the rollout's deadline when not set, 24h for an approval. Then the release is taken back."},
}

var advisory = field{key: "advisory", shape: boolean{}, doc: "Whether it is only a fact for cel gates, and judges nothing itself."}

var secretKeyShape = object{
	name: "secret-key", doc: "A key of a Secret in the environment's namespace.",
	fields: []field{
		{key: "name", shape: text{mode: valueText, check: checkLabel}, required: true, doc: "The Secret."},
		{key: "key", shape: text{mode: valueText}, required: true, doc: "The key in it."},
	},
}

var hooksShape = object{
	name: "hooks", doc: "Kubernetes Jobs around the release, one after another.",
	fields: []field{
		{key: "before", shape: list{item: hookShape, min: 1, max: 10}, doc: "Before anything is written; a failure leaves everything as it is."},
		{key: "after", shape: list{item: hookShape, min: 1, max: 10}, doc: "When all pods are good; a failure takes the release back."},
		{key: "on-failure", shape: list{item: hookShape, min: 1, max: 10}, doc: "When a release that failed has been taken back."},
	},
	rules: map[string]any{"minProperties": 1},
}

var hookShape = object{
	name: "hook", doc: "A Kubernetes Job.",
	fields: []field{
		{key: "name", shape: text{check: checkName, pattern: stageName.String()}, required: true, doc: "The hook's name, unique in the deploy."},
		{key: "manifest", shape: text{mode: valueText, check: checkPath}, required: true, doc: "A file that holds the Job."},
		{key: "timeout", shape: duration{time.Second, 24 * time.Hour}, doc: "How long it may take; the rollout's deadline when not set."},
	},
}

// checkWebhook accepts an address without credentials.
func checkWebhook(value string) (Rule, string, string) {
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return RuleValue, "this is no address of a webhook", "write https://HOST/PATH"
	case u.User != nil:
		return RuleValue, "credentials don't belong into an address", "name a Secret under secret: it signs the request"
	}
	return "", "", ""
}

// gateEnvironment declares what rollout.Facts describes; a test of the deploy
// stage holds the two to each other.
var gateEnvironment = sync.OnceValues(func() (*cel.Env, error) {
	group := cel.MapType(cel.StringType, cel.DynType)
	return cel.NewEnv(
		cel.Variable("metrics", group), cel.Variable("jobs", group), cel.Variable("webhooks", group), cel.Variable("approvals", group),
		cel.Variable("health", group), cel.Variable("stable", group),
		cel.Variable("step", cel.IntType), cel.Variable("weight", cel.IntType), cel.Variable("serving", cel.DurationType))
})

// checkGateExpression compiles an expression of a cel gate.
func checkGateExpression(value string) (Rule, string, string) {
	environment, err := gateEnvironment()
	if err != nil {
		return RuleExpression, err.Error(), ""
	}
	ast, issues := environment.Compile(value)
	if issues.Err() != nil {
		return RuleExpression, strings.TrimSpace(firstIssue(issues).Error()), "facts are metrics, jobs, webhooks, approvals, health, stable, step, weight and serving"
	}
	if kind := ast.OutputType(); !kind.IsExactType(cel.BoolType) && !kind.IsExactType(cel.DynType) {
		return RuleExpression, "the expression gives a " + kind.String() + "; it must give true or false", ""
	}
	return "", "", ""
}
