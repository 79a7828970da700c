package sbom

import (
	"debug/buildinfo"
	"encoding/json"
	"io"
	"path"
	"runtime/debug"
	"strings"
)

// debian reads dpkg's status: paragraphs of "Field: value" lines.
func debian(data []byte) []Package {
	var all []Package
	for _, paragraph := range strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n\n") {
		fields := headers(paragraph)
		status := fields["Status"]
		// Files of status.d, which images without dpkg have, say no status.
		installed := status == "" || strings.HasSuffix(status, " installed")
		if fields["Package"] == "" || fields["Version"] == "" || !installed {
			continue
		}
		all = append(all, Package{Type: "deb", Name: fields["Package"], Version: fields["Version"], Architecture: fields["Architecture"]})
	}
	return all
}

// headers reads "Field: value" lines up to the first empty one; lines that begin
// with a blank go on with the one before and are left out.
func headers(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			if len(fields) > 0 {
				break
			}
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		if _, known := fields[name]; !known {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}

// alpine reads apk's database: paragraphs of lines with a letter, a colon, a value.
func alpine(data []byte) []Package {
	var all []Package
	for _, paragraph := range strings.Split(string(data), "\n\n") {
		p := Package{Type: "apk"}
		for _, line := range strings.Split(paragraph, "\n") {
			name, value, _ := strings.Cut(line, ":")
			switch name {
			case "P":
				p.Name = value
			case "V":
				p.Version = value
			case "A":
				p.Architecture = value
			case "L":
				p.License = value
			}
		}
		if p.Name != "" && p.Version != "" {
			all = append(all, p)
		}
	}
	return all
}

// installedByNPM tells whether a directory is a package's in node_modules.
func installedByNPM(dir string) bool {
	parent := path.Dir(strings.TrimSuffix(dir, "/"))
	return path.Base(parent) == "node_modules" || strings.HasPrefix(path.Base(parent), "@") && path.Base(path.Dir(parent)) == "node_modules"
}

func npm(data []byte) []Package {
	var manifest struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		License any    `json:"license"`
	}
	if json.Unmarshal(data, &manifest) != nil || manifest.Name == "" || manifest.Version == "" {
		return nil
	}
	p := Package{Type: "npm", Name: manifest.Name, Version: manifest.Version}
	if scope, name, ok := strings.Cut(manifest.Name, "/"); ok {
		p.Namespace, p.Name = scope, name
	}
	p.License, _ = manifest.License.(string)
	return []Package{p}
}

func python(data []byte) []Package {
	fields := headers(string(data))
	if fields["Name"] == "" || fields["Version"] == "" {
		return nil
	}
	return []Package{{Type: "pypi", Name: strings.ReplaceAll(strings.ToLower(fields["Name"]), "_", "-"), Version: fields["Version"], License: fields["License"]}}
}

// modules are those a Go program was made of, the standard library included.
func modules(program io.ReaderAt) (all []Package) {
	// The parser is not made for hostile programs.
	defer func() {
		if recover() != nil {
			all = nil
		}
	}()
	info, err := buildinfo.Read(program)
	if err != nil {
		return nil
	}
	add := func(m *debug.Module) {
		if m == nil || m.Path == "" {
			return
		}
		if m.Replace != nil {
			m = m.Replace
		}
		version := m.Version
		if version == "(devel)" {
			version = "" // built from a checkout
		}
		dir, name := path.Split(m.Path)
		all = append(all, Package{Type: "golang", Namespace: strings.TrimSuffix(dir, "/"), Name: name, Version: version})
	}
	add(&debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")})
	add(&info.Main)
	for _, m := range info.Deps {
		add(m)
	}
	return all
}

// release reads ID and VERSION_ID of os-release.
func release(data []byte) (id, version string) {
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch name {
		case "ID":
			id = value
		case "VERSION_ID":
			version = value
		}
	}
	return id, version
}
