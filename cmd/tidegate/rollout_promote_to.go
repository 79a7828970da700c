package main

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

func newRolloutPromoteToCommand(f *clusterFlags) *cobra.Command {
	var flags releaseFlags
	var to clusterFlags
	command := &cobra.Command{
		Use:   "promote-to NAMESPACE APP -f FILE…",
		Short: "Roll the very images that are verified here out in another namespace or cluster",
		Long: `Takes the images, by digest, of the verified revision that APP runs in the
namespace of -n, and rolls them out in NAMESPACE with the manifests of -f, through
gates of their own. Nothing is built and no tag is looked up: what was proven is
what runs. The record keeps where it came from.

It is refused when nothing is verified here, when something else than the verified
revision serves, or when that is of another commit than --commit.

This moves a release between environments; "promote" lets a canary's step pass.`,
		Example: `  tidegate rollout promote-to production shop -n staging -f k8s/production/
  tidegate rollout promote-to shop shop -n shop --context staging --to-context production -f k8s/ --commit 4f2a91c
  tidegate rollout promote-to production shop -n staging -f k8s/ --canary 10:1m --canary 50:5m`,
		Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) != 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return f.complete(cmd, nil, prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(flags.images) > 0 {
				return usageErrorf("--image: the images are those that are verified in the namespace of -n; use \"start\" to roll others out")
			}
			to.kubeconfig, to.context, to.namespace = cmp.Or(to.kubeconfig, f.kubeconfig), cmp.Or(to.context, f.context), args[0]
			source, from, err := f.target(args[1:])
			if err != nil {
				return err
			}
			record, _, err := source.Status(cmd.Context(), from)
			if err != nil {
				return rolloutError(err)
			}
			verified, err := record.Promotable(cmp.Or(flags.commit, rollout.AnyCommit))
			if err != nil {
				return rolloutError(err)
			}
			controller, target, err := to.target(args[1:])
			if err != nil {
				return err
			}
			if to.kubeconfig == f.kubeconfig && to.context == f.context && target == from {
				return usageErrorf("%s is promoted from namespace %s to itself: name another namespace, or another cluster with --to-context", target.App, target.Namespace)
			}
			provenance := record.ProvenanceOf("", verified)
			promoted, err := manifest.NewPromoted(verified.Images, provenance.String())
			if err != nil {
				return &exitError{code: exitRefused, err: err}
			}
			flags.commit, flags.promoted = verified.Commit, promoted
			request, err := flags.request(cmd.Context(), controller, target, f.by)
			if err != nil {
				return err
			}
			request.From = provenance
			fmt.Fprintf(cmd.ErrOrStderr(), "promoting %s\n", printable(provenance.String()))
			return startRelease(cmd, controller, target, request)
		},
	}
	flags.register(command)
	command.Flags().StringVar(&to.context, "to-context", "", "context of the kubeconfig for the cluster that is promoted to (default: that of --context)")
	command.Flags().StringVar(&to.kubeconfig, "to-kubeconfig", "", "kubeconfig file of that cluster (default: that of --kubeconfig)")
	return command
}
