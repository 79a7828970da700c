package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// maxConfigList bounds each list of a base image's configuration. The longest
// that people make, their histories, have hundreds of entries.
const maxConfigList = 1 << 14

// checkBaseConfig refuses a configuration that no tool can have meant: it comes
// from whoever may push the base image, and goes into every image built on it.
func checkBaseConfig(c *dockerspec.DockerOCIImage) error {
	lists := []struct {
		name   string
		values []string
	}{
		{"Env", c.Config.Env}, {"Cmd", c.Config.Cmd}, {"Entrypoint", c.Config.Entrypoint}, {"OnBuild", c.Config.OnBuild}, {"Shell", c.Config.Shell},
		{"Volumes", slices.Collect(maps.Keys(c.Config.Volumes))}, {"ExposedPorts", slices.Collect(maps.Keys(c.Config.ExposedPorts))},
		{"Labels", slices.Collect(maps.Keys(c.Config.Labels))}, {"User", []string{c.Config.User}},
		{"WorkingDir", []string{c.Config.WorkingDir}}, {"StopSignal", []string{c.Config.StopSignal}},
	}
	if len(c.History) > maxConfigList {
		return fmt.Errorf("its configuration has a history of more than %d entries", maxConfigList)
	}
	for _, list := range lists {
		if len(list.values) > maxConfigList {
			return fmt.Errorf("its configuration has more than %d values of %s", maxConfigList, list.name)
		}
		for _, value := range list.values {
			if len(value) > maxValue {
				return fmt.Errorf("its configuration has a value of %s with %d bytes, more than %d", list.name, len(value), maxValue)
			}
			if strings.ContainsRune(value, 0) {
				return fmt.Errorf("its configuration has a zero byte in %s", list.name)
			}
		}
	}
	return nil
}
