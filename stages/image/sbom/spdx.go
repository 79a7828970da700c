package sbom

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"

	packageurl "github.com/package-url/packageurl-go"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
)

// Document is an SPDX 2.3 document (https://spdx.github.io/spdx-spec/v2.3/).
type Document struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      Creation       `json:"creationInfo"`
	Packages      []SPDXPackage  `json:"packages"`
	Relationships []Relationship `json:"relationships"`
}

// Creation says who made the document.
type Creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

// SPDXPackage is a package of the document.
type SPDXPackage struct {
	ID               string        `json:"SPDXID"`
	Name             string        `json:"name"`
	Version          string        `json:"versionInfo,omitempty"`
	Supplier         string        `json:"supplier"`
	DownloadLocation string        `json:"downloadLocation"`
	FilesAnalyzed    bool          `json:"filesAnalyzed"`
	SourceInfo       string        `json:"sourceInfo,omitempty"`
	LicenseConcluded string        `json:"licenseConcluded"`
	LicenseDeclared  string        `json:"licenseDeclared"`
	Copyright        string        `json:"copyrightText"`
	Checksums        []Checksum    `json:"checksums,omitempty"`
	References       []ExternalRef `json:"externalRefs,omitempty"`
	Purpose          string        `json:"primaryPackagePurpose,omitempty"`
}

// Checksum is a digest.
type Checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

// ExternalRef is a name of the package elsewhere.
type ExternalRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

// Relationship is between two elements.
type Relationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const unknown = "NOASSERTION"

// namespace begins every document's own name.
const namespace = "https://github.com/tidegate-ci/tidegate/sbom/"

// SPDX describes an image, which has the SHA-256 digest given in hexadecimal
// digits. The time is the image's own, so that the document is as reproducible.
func SPDX(image, digest string, packages Packages, created time.Time) Document {
	const document, root = "SPDXRef-DOCUMENT", "SPDXRef-image"
	d := Document{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: document, Name: image, Namespace: namespace + "sha256-" + digest,
		Creation: Creation{Created: created.UTC().Format(time.RFC3339), Creators: []string{"Tool: tidegate"}},
		Packages: []SPDXPackage{{
			ID: root, Name: image, Version: "sha256:" + digest, Supplier: unknown, DownloadLocation: unknown,
			LicenseConcluded: unknown, LicenseDeclared: unknown, Copyright: unknown, Purpose: "CONTAINER",
			Checksums: []Checksum{{Algorithm: "SHA256", Value: digest}},
		}},
		Relationships: []Relationship{{Element: document, Type: "DESCRIBES", Related: root}},
	}
	for _, p := range packages.All {
		url := p.url(packages)
		id := "SPDXRef-" + identifier(p.Type+"-"+p.Name) + "-" + short(url+" "+p.Found)
		d.Packages = append(d.Packages, SPDXPackage{
			ID: id, Name: p.fullName(), Version: p.Version, Supplier: unknown, DownloadLocation: unknown,
			SourceInfo: "found in " + p.Found, LicenseConcluded: unknown, LicenseDeclared: license(p.License), Copyright: unknown,
			References: []ExternalRef{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: url}},
		})
		d.Relationships = append(d.Relationships, Relationship{Element: root, Type: "CONTAINS", Related: id})
	}
	return d
}

func (p Package) fullName() string {
	if _, ok := distributions[p.Type]; p.Namespace != "" && !ok {
		return p.Namespace + "/" + p.Name
	}
	return p.Name
}

func (p Package) url(all Packages) string {
	var qualifiers packageurl.Qualifiers
	if p.Architecture != "" {
		qualifiers = append(qualifiers, packageurl.Qualifier{Key: "arch", Value: p.Architecture})
	}
	if p.Epoch != 0 {
		qualifiers = append(qualifiers, packageurl.Qualifier{Key: "epoch", Value: strconv.Itoa(p.Epoch)})
	}
	if _, ok := distributions[p.Type]; ok && all.Distribution != "" {
		value := all.Distribution
		if all.Release != "" {
			value += "-" + all.Release
		}
		qualifiers = append(qualifiers, packageurl.Qualifier{Key: "distro", Value: value})
	}
	return packageurl.NewPackageURL(p.Type, p.Namespace, p.Name, p.Version, qualifiers, "").ToString()
}

// licenses are identifiers of the SPDX list that are taken over as they stand.
// Expressions and free text are not: a wrong one makes the document invalid.
var licenses = map[string]bool{
	"MIT": true, "ISC": true, "Zlib": true, "Apache-2.0": true, "BSD-2-Clause": true, "BSD-3-Clause": true, "0BSD": true,
	"GPL-2.0-only": true, "GPL-2.0-or-later": true, "GPL-3.0-only": true, "GPL-3.0-or-later": true, "LGPL-2.1-only": true,
	"LGPL-2.1-or-later": true, "LGPL-3.0-or-later": true, "MPL-2.0": true, "Unlicense": true, "PSF-2.0": true, "CC0-1.0": true,
}

func license(text string) string {
	if licenses[text] {
		return text
	}
	return unknown
}

var notIdentifier = lazyregexp.New(`[^A-Za-z0-9.-]+`)

func identifier(text string) string {
	text = notIdentifier().ReplaceAllString(text, "-")
	return text[:min(len(text), 100)]
}

func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}
