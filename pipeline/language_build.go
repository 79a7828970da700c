package pipeline

var secretName = text{check: checkSecretName, pattern: variable.String()}

var signShape = object{
	name: "sign", doc: "Signs what is pushed, as cosign does. Forks sign nothing.", short: "key",
	fields: []field{
		{key: "key", shape: secretName, required: true, doc: "The name of the secret that holds the private key, in PEM."},
		{key: "password", shape: secretName, doc: "The name of the secret that holds the key's password."},
	},
}

var withShape = object{
	name: "with", doc: "Another builder in place of Tidegate's own.", short: "builder",
	fields: []field{
		{key: "builder", shape: text{choices: []string{"buildkit"}}, doc: "buildkit: the buildkitd that the key buildkit names."},
		{key: "command", shape: text{mode: scriptText, maxLen: maxScriptLen},
			doc: "A script that builds and pushes, and writes digest=sha256:… into the file $TIDEGATE_OUTPUT. It never holds ${{ }}: use env."},
		{key: "image", shape: text{mode: valueText, check: checkImage}, doc: "The image whose files the command sees; the host when not set."},
		{key: "network", shape: text{choices: []string{"none", "host"}}, doc: "Of the command: none (default with an image) or host."},
	},
	rules: map[string]any{
		"oneOf": []any{
			map[string]any{"required": []string{"builder"}},
			map[string]any{"required": []string{"command"}},
		},
		"dependentRequired": map[string]any{"image": []string{"command"}, "network": []string{"command"}},
	},
}

var buildkitShape = object{
	name: "buildkit", doc: "A buildkitd.", short: "address",
	fields: []field{
		{key: "address", shape: text{mode: valueText, check: checkBuildKitAddress}, required: true, doc: "tcp://HOST:PORT or unix://PATH."},
		{key: "ca", shape: secretName, doc: "The name of the secret that holds the certificate authority's certificate, in PEM."},
		{key: "cert", shape: secretName, doc: "The name of the secret that holds the client's certificate, in PEM."},
		{key: "key", shape: secretName, doc: "The name of the secret that holds the client's private key, in PEM."},
		{key: "server-name", shape: text{mode: valueText}, doc: "The name in the server's certificate; the host of the address when not set."},
	},
	rules: map[string]any{"dependentRequired": map[string]any{"cert": []string{"key"}, "key": []string{"cert"}}},
}
