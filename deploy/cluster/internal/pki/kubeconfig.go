package pki

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
)

var kubeconfig = template.Must(template.New("kubeconfig").Parse(`apiVersion: v1
kind: Config
clusters:
- name: {{.Cluster}}
  cluster:
    server: {{.Server}}
    certificate-authority-data: {{.Authority}}
users:
- name: {{.User}}
  user:
    client-certificate-data: {{.Cert}}
    client-key-data: {{.Key}}
contexts:
- name: {{.Cluster}}
  context:
    cluster: {{.Cluster}}
    user: {{.User}}
current-context: {{.Cluster}}
`))

// WriteKubeconfig writes a kubeconfig to path, readable by its owner only, that
// talks to server as id and trusts id's authority. Certificates are embedded,
// so the file works wherever it is copied to.
func WriteKubeconfig(path, cluster, server, dir string, id Identity) error {
	fields := map[string]string{"Cluster": cluster, "Server": server, "User": id.File}
	for field, file := range map[string]string{"Authority": id.Authority + ".crt", "Cert": id.File + ".crt", "Key": id.File + ".key"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return fmt.Errorf("kubeconfig %s: %w", path, err)
		}
		fields[field] = base64.StdEncoding.EncodeToString(data)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	err = kubeconfig.Execute(f, fields)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return nil
}
