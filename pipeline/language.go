package pipeline

import (
	"time"
)

// Limits of what a pipeline may hold.
const (
	// MaxStages bounds the stages of a file and, with matrices expanded, of a plan.
	MaxStages = 1000
	// MaxMatrix bounds the combinations of one stage's matrix.
	MaxMatrix = 256
)

const (
	maxRetries = 10
	// maxExpressions bounds what a file gives the compiler of CEL to do.
	maxExpressions = 2000
	maxList        = 256
	week           = 7 * 24 * time.Hour
	month          = 31 * 24 * time.Hour
)

var (
	stageName = newPattern(`^[A-Za-z][A-Za-z0-9_-]{0,62}$`)
	inputName = newPattern(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)
	variable  = newPattern(`^[A-Za-z_][A-Za-z0-9_]{0,254}$`)
	labelKey  = newPattern(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,254}$`)
	// annotationKey may start with where it goes: index:, manifest[linux/arm64]:, …
	annotationKey = newPattern(`^[A-Za-z0-9][A-Za-z0-9._/,:\[\]-]{0,254}$`)
	argumentKey   = newPattern(`^[A-Za-z_][A-Za-z0-9_.-]{0,254}$`)
	contextKey    = newPattern(`^[a-z0-9][A-Za-z0-9_.:/@-]{0,254}$`)
)

// language is the whole pipeline file.
var language = object{
	name: "pipeline",
	doc:  "A Tidegate pipeline.",
	fields: []field{
		{key: "version", shape: number{1, 1}, required: true, doc: "The version of the language: 1."},
		{key: "name", shape: text{check: checkName, pattern: stageName.String()}, required: true,
			doc: "The pipeline's name, unique in the repository; releases carry it."},
		{key: "on", shape: triggersShape, required: true, doc: "Which events start the pipeline."},
		{key: "concurrency", shape: concurrencyShape, doc: "Runs with the same group run one after the other."},
		{key: "env", shape: environmentShape, doc: "Environment variables of every stage."},
		{key: "stages", shape: stageMap{dictionary: stagesShape}, required: true, doc: "The stages, by name."},
		{key: "finally", shape: stageMap{dictionary: finallyShape, finally: true},
			doc: "Stages that run after all others ended, whatever happened."},

		{key: "include", unsupported: "copy the stages into this file, or reuse them through YAML anchors"},
		{key: "templates", unsupported: "reuse stages through YAML anchors and merge keys"},
		{key: "template", unsupported: "reuse stages through YAML anchors and merge keys"},
		{key: "inputs", unsupported: "declare inputs of runs by hand under on.manual.inputs"},
		{key: "services", unsupported: "start what the stage needs inside its script"},
		{key: "secrets", unsupported: "secrets are set on the server and reach trusted stages as environment variables"},
	},
	extensions: true,
}

var triggersShape = triggerSet{object{
	name: "triggers",
	doc:  "Which events start the pipeline.",
	fields: []field{
		{key: "push", shape: object{
			name: "push", doc: "Pushes of branches and tags.", nullable: true,
			fields: []field{
				{key: "branches", shape: globs, doc: "Globs of branches; all when neither this nor tags is set."},
				{key: "branches-ignore", shape: globs, doc: "Globs of branches that do not start the pipeline."},
				{key: "tags", shape: globs, doc: "Globs of tags; a tag starts the pipeline only if this is set."},
				{key: "paths", shape: globs, doc: "Globs of paths, one of which must have changed. Not applied to tags."},
				{key: "paths-ignore", shape: globs, doc: "Globs of paths whose changes do not count. Not applied to tags."},
			},
		}, doc: "Pushes of branches and tags."},
		{key: "pull_request", shape: object{
			name: "pull_request", doc: "Pull requests opened or updated.", nullable: true,
			fields: []field{
				{key: "branches", shape: globs, doc: "Globs of the branches that the pull request asks to merge into."},
				{key: "branches-ignore", shape: globs, doc: "Globs of target branches that do not start the pipeline."},
				{key: "paths", shape: globs, doc: "Globs of paths, one of which must have changed."},
				{key: "paths-ignore", shape: globs, doc: "Globs of paths whose changes do not count."},
			},
		}, doc: "Pull requests opened or updated."},
		{key: "schedule", shape: list{item: object{
			name: "schedule", doc: "A time table.", short: "cron",
			fields: []field{
				{key: "cron", shape: text{check: checkCron}, required: true, doc: "Five fields: minute, hour, day of month, month, day of week."},
				{key: "timezone", shape: text{check: checkTimezone}, doc: "An IANA time zone such as Europe/Berlin; UTC when not set."},
			},
		}, single: true, min: 1, max: maxList}, doc: "Time tables."},
		{key: "manual", shape: object{
			name: "manual", doc: "Runs started by hand.", nullable: true,
			fields: []field{
				{key: "inputs", shape: dictionary{value: inputShape, keys: inputName, keyWhat: "name of an input", max: maxList},
					doc: "Values asked for."},
			},
		}, doc: "Runs started by hand: tidegate run, the API, the page."},

		{key: "registry", unsupported: "start the pipeline by push, schedule or by hand"},
		{key: "release", unsupported: "use push: {tags: [\"v*\"]}"},
		{key: "comment", unsupported: "start the pipeline by push, pull_request, schedule or by hand"},
	},
}}

var inputShape = object{
	name: "input", doc: "A value asked for when a run is started by hand.", nullable: true,
	fields: []field{
		{key: "type", shape: text{choices: []string{"string", "boolean", "number", "choice"}}, doc: "string when not set."},
		{key: "default", shape: text{loose: true, empty: true}, doc: "The value when none is given."},
		{key: "required", shape: boolean{}, doc: "Whether a value must be given."},
		{key: "choices", shape: list{item: text{loose: true}, min: 1, max: maxList, unique: true}, doc: "The values of an input of type choice."},
	},
}

var concurrencyShape = object{
	name: "concurrency", doc: "Runs with the same group run one after the other.", short: "group",
	fields: []field{
		{key: "group", shape: text{mode: valueText}, required: true, doc: "The group, per repository; may hold ${{ }} with what the event says."},
		{key: "cancel-in-progress", shape: boolean{}, doc: "Whether a new run cancels the one that runs."},
	},
}

var globs = list{item: text{check: checkGlob}, single: true, min: 1, max: maxList}

var environmentShape = dictionary{
	value: text{mode: valueText, loose: true, empty: true, maxLen: 32 << 10},
	keys:  variable, keyWhat: "name of an environment variable", max: maxList, keyCheck: checkVariable,
}

var stagesShape = dictionary{value: stageShape, keys: stageName, keyWhat: "name of a stage", max: MaxStages}

var finallyShape = dictionary{value: stageShape, keys: stageName, keyWhat: "name of a stage", max: maxList}

var stageShape = object{
	name: "stage",
	doc:  "A stage: exactly one of run, build and deploy, or approve alone or beside one of them.",
	fields: []field{
		{key: "needs", shape: list{item: text{check: checkName, pattern: stageName.String()}, single: true, max: maxList, unique: true},
			doc: "Stages that must end before this one begins."},
		{key: "when", shape: text{mode: conditionText, loose: true}, doc: "A CEL condition; when not set, every need must have succeeded."},
		{key: "env", shape: environmentShape, doc: "Environment variables of this stage."},
		{key: "matrix", shape: axes{dictionary{
			value: list{item: text{loose: true, check: checkMatrixValue, maxLen: 128}, min: 1, max: MaxMatrix, unique: true},
			keys:  inputName, keyWhat: "name of a matrix axis", max: 16,
		}}, doc: "The stage runs once for each combination of these values."},
		{key: "retry", shape: object{
			name: "retry", doc: "How often a failed attempt is repeated.", short: "max",
			fields: []field{
				{key: "max", shape: number{0, maxRetries}, required: true, doc: "How many more times."},
				{key: "on", shape: list{item: text{choices: []string{
					string(CauseInfrastructure), string(CauseFailed), string(CauseTimeout),
				}}, single: true, min: 1, max: 3, unique: true}, doc: "For which causes; infrastructure when not set."},
			},
		}, doc: "How often a failed attempt is repeated."},
		{key: "timeout", shape: duration{time.Second, week}, doc: "How long one attempt may take; 1h when not set."},

		{key: "run", into: "run.command", shape: text{mode: scriptText, maxLen: maxScriptLen}, doc: "A script. It never holds ${{ }}: use env."},
		{key: "shell", into: "run.shell", shape: list{item: text{check: checkNoExpression}, min: 1, max: 32}, doc: `The argument vector the script is appended to; ["sh", "-e", "-c"] when not set.`},
		{key: "image", into: "run.image", shape: text{mode: valueText, check: checkImage}, doc: "The image whose files the script sees; the host when not set."},
		{key: "working-directory", into: "run.working-directory", shape: text{mode: valueText, check: checkPath}, doc: "Where the script runs, relative to the checkout."},
		{key: "cache", into: "run.cache", shape: list{item: text{check: checkCachePath}, single: true, min: 1, max: 32, unique: true}, doc: "Directories kept between runs."},
		{key: "network", into: "run.network", shape: text{choices: []string{"none", "host"}}, doc: "none (default with an image) or host."},

		{key: "build", shape: buildShape, doc: "An image built from a Dockerfile."},
		{key: "deploy", shape: deployShape, doc: "A release put into an environment."},
		{key: "approve", shape: approveShape, doc: "Waits for a person."},

		{key: "services", unsupported: "start what the stage needs inside its script"},
		{key: "reports", unsupported: "print the report's summary in the script; the log is kept"},
		{key: "artifacts", unsupported: "hand values on through the file $TIDEGATE_OUTPUT, or push an image"},
		{key: "inputs", unsupported: "leave it out: the stage runs every time"},
		{key: "template", unsupported: "reuse stages through YAML anchors and merge keys"},
		{key: "with", unsupported: "pass values through env"},
		{key: "secrets", unsupported: "secrets are set on the server and reach trusted stages as environment variables"},
	},
	rules: map[string]any{
		"anyOf": []any{
			map[string]any{"required": []string{"run"}},
			map[string]any{"required": []string{"build"}},
			map[string]any{"required": []string{"deploy"}},
			map[string]any{"required": []string{"approve"}},
		},
		"not": map[string]any{"anyOf": []any{
			map[string]any{"required": []string{"run", "build"}},
			map[string]any{"required": []string{"run", "deploy"}},
			map[string]any{"required": []string{"build", "deploy"}},
		}},
		"dependentRequired": map[string]any{
			"shell": []string{"run"}, "image": []string{"run"}, "working-directory": []string{"run"},
			"cache": []string{"run"}, "network": []string{"run"},
		},
	},
}

var buildShape = object{
	name: "build", doc: "An image built from a Dockerfile.",
	fields: []field{
		{key: "push", shape: text{mode: valueText, check: checkRepository}, required: true, doc: "The repository to push to; without a host, the default registry."},
		{key: "context", shape: text{mode: valueText, check: checkPath}, doc: "The build context, relative to the checkout; \".\" when not set."},
		{key: "dockerfile", shape: text{mode: valueText, check: checkPath}, doc: "The Dockerfile, relative to the checkout."},
		{key: "target", shape: text{mode: valueText}, doc: "The Dockerfile stage to build; the last when not set."},
		{key: "args", shape: dictionary{value: text{mode: valueText, loose: true, empty: true}, keys: argumentKey, keyWhat: "name of a build argument", max: maxList}, doc: "Build arguments."},
		{key: "platforms", shape: list{item: text{check: checkPlatform}, single: true, min: 1, max: 16, unique: true}, doc: "The platforms to build for, an image index when several; the machine's own when not set."},
		{key: "tags", shape: list{item: text{mode: valueText, check: checkTag}, single: true, min: 1, max: 32, unique: true}, doc: "Tags to set in the repository; the commit's when neither this nor push has one."},
		{key: "labels", shape: dictionary{value: text{mode: valueText, loose: true, empty: true}, keys: labelKey, keyWhat: "name of a label", max: maxList}, doc: "Labels of the image."},
		{key: "annotations", shape: dictionary{value: text{mode: valueText, loose: true, empty: true}, keys: annotationKey, keyWhat: "name of an annotation", max: maxList}, doc: "Annotations of the manifest; with index:, manifest-descriptor: or manifest[PLATFORM]: before the name, of that."},
		{key: "no-cache", shape: boolean{}, doc: "Whether to build every step anew."},
		{key: "contexts", shape: dictionary{value: text{mode: valueText, check: checkContext}, keys: contextKey, keyWhat: "name of a build context", max: maxList},
			doc: "Named contexts: directories of the checkout, Git or archive URLs, or docker-image://REFERENCE."},
		{key: "secrets", shape: dictionary{value: text{check: checkVariableName}, keys: argumentKey, keyWhat: "id of a secret", max: maxList}, doc: "Ids for RUN --mount=type=secret, each with the variable that holds it; every variable of the stage also has its own name as id."},
		{key: "ssh", shape: dictionary{value: text{check: checkVariableName}, keys: argumentKey, keyWhat: "id of an SSH agent", max: maxList}, doc: "Ids for RUN --mount=type=ssh, each with the variable that holds a private key; default is also used for Git."},
		{key: "cache", shape: buildCacheShape, doc: "Caches in a registry, for workers that have built nothing yet."},
		{key: "provenance", shape: text{choices: []string{"min", "max"}}, doc: "Attaches SLSA provenance: min leaves out build arguments, labels and the Dockerfile; none when not set."},
		{key: "sbom", shape: boolean{}, doc: "Whether to attach an SPDX list of the image's packages."},
		{key: "sign", shape: signShape, doc: "Signs what is pushed, as cosign does."},
		{key: "with", shape: withShape, doc: "Another builder in place of Tidegate's own: buildkit, or a command."},
		{key: "buildkit", shape: buildkitShape, doc: "The buildkitd of with: buildkit."},

		{key: "cache-from", unsupported: "write cache: {from: NAME}"},
		{key: "cache-to", unsupported: "write cache: {to: NAME}"},
	},
}

var buildCacheShape = object{
	name: "build-cache", doc: "Caches in a registry, for workers that have built nothing yet.",
	fields: []field{
		{key: "from", shape: list{item: text{mode: valueText, check: checkRepository}, single: true, min: 1, max: 16}, doc: "Caches to read, or images with an inline one; without a tag, the repository's own cache of that name."},
		{key: "to", shape: list{item: text{mode: valueText, check: checkRepository}, single: true, min: 1, max: 4}, doc: "Caches to write; a run of a fork writes none."},
		{key: "mode", shape: text{choices: []string{"min", "max"}}, doc: "max (default) keeps the layers of all steps, min those of the image."},
	},
	rules: map[string]any{"minProperties": 1},
}

var deployShape = object{
	name: "deploy", doc: "A release put into an environment.",
	fields: []field{
		{key: "environment", shape: text{mode: valueText, check: checkLabel}, required: true, doc: "The name of the environment."},
		{key: "manifests", shape: list{item: text{mode: valueText, check: checkPath}, single: true, min: 1, max: maxList},
			doc: "Files or directories of Kubernetes manifests, relative to the checkout."},
		{key: "kustomize", shape: text{mode: valueText, check: checkPath}, doc: "A directory with a kustomization, relative to the checkout."},
		{key: "helm", shape: helmShape, doc: "A Helm chart of the checkout, rendered without a release of Helm's."},
		{key: "images", shape: list{item: imageFieldShape, min: 1, max: maxImageFields}, doc: "Fields of custom resources that hold images, to be pinned by digest like those of pods."},
		{key: "readiness", shape: list{item: readinessShape, min: 1, max: maxReadiness}, doc: "When custom resources are ready; without a rule, their conditions tell."},
		{key: "app", shape: text{mode: valueText, check: checkLabel}, doc: "The release's name in the environment; the pipeline's name when not set."},
		{key: "strategy", shape: object{
			name: "strategy", doc: "How the new release replaces the old: rolling when not set.",
			fields: []field{
				{key: "rolling", shape: rollingShape, doc: "An update in place."},
				{key: "canary", shape: canaryShape, doc: "A second workload beside the stable one, in steps."},
				{key: "blue-green", shape: blueGreenShape, doc: "The whole new version beside the old one, then a switch of the live Services at once."},
				{key: "recreate", shape: object{name: "recreate", doc: "The old pods go, then the new ones come: an outage between the two.", nullable: true},
					doc: "The old pods go, then the new ones come: an outage between the two."},

				{key: "bluegreen", unsupported: "write blue-green"},
			},
			rules: map[string]any{"maxProperties": 1},
		}, doc: "How the new release replaces the old: rolling when not set."},
		{key: "bake", shape: duration{0, week}, doc: "How long new pods must stay good before a step counts as passed; 0 is the explicit choice not to wait."},
		{key: "deadline", shape: duration{time.Second, week}, doc: "How long the rollout may make no progress."},

		{key: "hooks", shape: hooksShape, doc: "Kubernetes Jobs around the release."},
		{key: "on-rollback", shape: text{choices: []string{"revert-pull-request"}}, doc: "What happens when the release is taken back by itself: a pull request that takes the commit back."},
		{key: "promote", shape: promoteShape, doc: "Takes the very images that are verified in another environment."},

		{key: "traffic", unsupported: "write it under strategy.canary"},
		{key: "namespace", unsupported: "an environment has its namespace; set it there"},
		{key: "cluster", unsupported: "an environment has its cluster; set it there"},
	},
	rules: map[string]any{"anyOf": []any{
		map[string]any{"required": []string{"manifests"}}, map[string]any{"required": []string{"kustomize"}}, map[string]any{"required": []string{"helm"}},
	}},
}

var rollingShape = object{
	name: "rolling", doc: "An update in place.", nullable: true,
	fields: []field{
		{key: "batch", shape: text{loose: true, check: checkBatch, pattern: batchPattern.String()},
			doc: "How many pods of a StatefulSet are replaced between two gates, such as 2 or 25%; the first batch is one pod; 25% when not set."},
	},
}

var blueGreenShape = object{
	name: "blue-green", doc: "The whole new version beside the old one, then a switch of the live Services at once.", nullable: true,
	fields: []field{
		{key: "hold", shape: duration{0, week}, doc: "How long the preview must stay good before the switch; the bake time when not set."},
		{key: "keep-old", shape: duration{0, week}, doc: "How long the old version is kept after the switch, so that the return is instant; 1m when not set."},
		{key: "gates", shape: list{item: gateShape, min: 1, max: 20}, doc: "Gates on the preview before the switch (step 1), and on the new version after it (step 2), beside the health of its pods."},
		{key: "preview", unsupported: "leave it out: the preview Service is called NAME-preview"},
	},
}

var canaryShape = object{
	name: "canary", doc: "A second workload beside the stable one.",
	fields: []field{
		{key: "steps", shape: list{item: object{
			name: "canary-step", doc: "A share of the new version, held for a while.",
			fields: []field{
				{key: "weight", shape: number{0, 100}, required: true, doc: "Percent of the new version; 0 beside a match alone."},
				{key: "hold", shape: duration{0, week}, doc: "How long to stay once the pods are healthy."},
				{key: "match", shape: matchShape, doc: "Requests that go to the new version whatever the weight, where a router gives the share."},
				{key: "gates", unsupported: "write gates beside steps, and name there the steps they hold for"},
			},
		}, min: 1, max: 100}, required: true, doc: "The steps, each with a greater weight than the one before."},

		{key: "gates", shape: list{item: gateShape, min: 1, max: 20}, doc: "Gates of every step, beside the health of its pods."},
		{key: "traffic", shape: trafficShape, doc: "Routes by which the new version gets exactly its share; by the number of pods when not set."},
	},
}

var metricShape = object{
	name: "metric", doc: "A judgement of what is measured: query within min and max, or bad of total requests, or value, compared with a fresh baseline. $pods, $namespace, $app and $interval stand for what they say.",
	fields: []field{
		{key: "name", shape: text{check: checkName, pattern: stageName.String()}, required: true, doc: "The gate's name, unique in the strategy."},
		{key: "prometheus", shape: text{mode: valueText}, doc: "The address of a Prometheus server."},
		{key: "http", shape: text{mode: valueText}, doc: "A URL that answers with JSON; queries are CEL expressions over response."},
		{key: "datadog", shape: datadogShape, doc: "A Datadog organisation."},
		{key: "newrelic", shape: newRelicShape, doc: "A New Relic account."},
		{key: "cloudwatch", shape: cloudWatchShape, doc: "CloudWatch in an AWS region; query with min or max alone."},
		{key: "token", shape: secretKeyShape, doc: "Sent to prometheus or http as a bearer token."},
		{key: "query", shape: text{mode: valueText}, doc: "A number to be within min and max."},
		{key: "min", shape: decimal{}, doc: "The least that query may give."},
		{key: "max", shape: decimal{}, doc: "The most that query may give."},
		{key: "tolerate", shape: number{0, 100}, doc: "How many samples in all may lie outside; 0 when not set."},
		{key: "bad", shape: text{mode: valueText}, doc: "How many requests went wrong in $interval."},
		{key: "total", shape: text{mode: valueText}, doc: "How many requests there were in $interval."},
		{key: "value", shape: text{mode: valueText}, doc: "A gauge, such as a latency."},
		{key: "ratio", shape: decimal{}, doc: "How many times worse than the baseline is tolerated; 1 when not set."},
		{key: "higher-is-better", shape: boolean{}, doc: "Whether a greater value is the better one."},
		{key: "minimum", shape: number{0, 1_000_000}, doc: "How many samples (with bad and total: requests on each side) are needed to pass."},
		{key: "interval", shape: duration{time.Second, week}, doc: "Time between looks; 10s when not set, 1m with a service."},
		advisory,
	},
	rules: map[string]any{"oneOf": []any{
		map[string]any{"required": []string{"prometheus"}}, map[string]any{"required": []string{"http"}}, map[string]any{"required": []string{"datadog"}},
		map[string]any{"required": []string{"newrelic"}}, map[string]any{"required": []string{"cloudwatch"}},
	}},
}

var approveShape = object{
	name: "approve", doc: "Waits for a person.", nullable: true, short: "from",
	fields: []field{
		{key: "from", shape: list{item: text{}, single: true, max: maxList, unique: true}, doc: "Who may approve; any authenticated user when not set."},
		{key: "timeout", shape: duration{time.Second, month}, doc: "How long to wait; 24h when not set."},
		{key: "message", shape: text{mode: valueText}, doc: "What the person is told."},
	},
}
