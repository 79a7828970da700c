package image

import (
	"github.com/tidegate-ci/tidegate/stages/image/layer"
)

// unpack places the content of the archives among a step's files and gives the
// files that are none.
func (r *stepRun) unpack(p *layer.Placement, to layer.Destination, from *files) ([]layer.Item, error) {
	var rest []layer.Item
	for _, item := range from.items {
		if !item.Top || item.Size == 0 || !item.Regular() {
			rest = append(rest, item)
			continue
		}
		unpacked, err := p.Archive(to, from.tree, item.Path)
		if err != nil {
			return nil, err
		}
		if !unpacked {
			rest = append(rest, item)
		}
	}
	return rest, nil
}
