package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tidegate-ci/tidegate/stages/image"
)

// buildCheckFlags ask for the build checks alone.
type buildCheckFlags struct{ check string }

func (f *buildCheckFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.check, "check", "", "run the build checks and build nothing; print findings as text or json; exit 1 if there are any")
	flags.Lookup("check").NoOptDefVal = "text"
}

func (f *buildCheckFlags) run(cmd *cobra.Command, builder *image.Builder, request image.Request) error {
	if f.check != "text" && f.check != "json" {
		return usageErrorf("--check=%s: use text or json", f.check)
	}
	found, err := builder.Check(cmd.Context(), request)
	write := writeFindings
	if f.check == "json" {
		write = writeFindingsJSON
	}
	if writeErr := write(cmd.OutOrStdout(), found); writeErr != nil {
		return writeErr
	}
	if err == nil && len(found) > 0 {
		return &exitError{code: exitFailed}
	}
	return err
}

func writeFindings(to io.Writer, found []image.Finding) error {
	for _, f := range found {
		text := fmt.Sprintf("%s: %s: %s\n", f.Pos, f.Rule, f.Message)
		if f.Excerpt != "" {
			text += f.Excerpt + "\n"
		}
		if f.URL != "" {
			text += "  see " + f.URL + "\n"
		}
		if _, err := io.WriteString(to, text+"\n"); err != nil {
			return err
		}
	}
	summary := "no findings\n"
	if len(found) > 0 {
		summary = fmt.Sprintf("%d found\n", len(found))
	}
	_, err := io.WriteString(to, summary)
	return err
}

// The JSON form has the names of `docker build --call=lint,format=json`.
type (
	findingJSON struct {
		Rule        string       `json:"ruleName"`
		Description string       `json:"description,omitempty"`
		URL         string       `json:"url,omitempty"`
		Detail      string       `json:"detail"`
		File        string       `json:"file"`
		Location    locationJSON `json:"location"`
	}
	locationJSON struct {
		Ranges []rangeJSON `json:"ranges"`
	}
	rangeJSON struct {
		Start lineJSON `json:"start"`
		End   lineJSON `json:"end"`
	}
	lineJSON struct {
		Line      int `json:"line"`
		Character int `json:"character"`
	}
)

func writeFindingsJSON(to io.Writer, found []image.Finding) error {
	all := []findingJSON{}
	for _, f := range found {
		all = append(all, findingJSON{
			f.Rule, f.Description, f.URL, f.Message, f.Pos.File,
			locationJSON{[]rangeJSON{{lineJSON{f.Pos.Line, f.Pos.Column}, lineJSON{max(f.Pos.EndLine, f.Pos.Line), 0}}}},
		})
	}
	encoder := json.NewEncoder(to)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		Warnings []findingJSON `json:"warnings"`
	}{all})
}
