package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"github.com/tidegate-ci/tidegate/internal/server"
	"github.com/tidegate-ci/tidegate/internal/settings"
)

func newServeCommand() *cobra.Command {
	var config, listen, data, logLevel, logFormat string
	command := &cobra.Command{
		Use:   "serve",
		Short: "Run the server: webhooks, API, workers, registry",
		Long: `Serve receives webhooks at /hooks/github, plans and runs pipelines, and answers
the API that "tidegate runs" talks to.

Settings come from a file (see the README); flags win over TIDEGATE_LISTEN and
TIDEGATE_DATA, which win over the file. At the first start an administrator's
token is written to admin-token in the data directory.

SIGTERM stops in order: requests are finished, runs under way are handed over to
the next start. A kill loses nothing either.`,
		Example: `  tidegate serve --config server.yaml
  TIDEGATE_LISTEN=0.0.0.0:8080 tidegate serve --config /etc/tidegate/server.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded := settings.Default()
			if config != "" {
				var err error
				if loaded, err = settings.Load(config); err != nil {
					return usageErrorf("%w", err)
				}
			}
			if err := override(&loaded, listen, data); err != nil {
				return err
			}
			log, err := newLogger(logLevel, logFormat)
			if err != nil {
				return err
			}
			defer func() { _ = log.Sync() }()
			s, err := server.Open(cmd.Context(), loaded, log)
			if err != nil {
				return err
			}
			return s.Run(cmd.Context())
		},
	}
	flags := command.Flags()
	flags.StringVarP(&config, "config", "c", os.Getenv("TIDEGATE_CONFIG"), "settings file")
	flags.StringVar(&listen, "listen", os.Getenv("TIDEGATE_LISTEN"), "address of hooks and API")
	flags.StringVar(&data, "data", os.Getenv("TIDEGATE_DATA"), "directory for journal, inbox, caches and registry")
	flags.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&logFormat, "log-format", "auto", "auto, console or json; auto is console on a terminal")
	return command
}

// override applies what flags and environment say over the file.
func override(s *settings.Settings, listen, data string) error {
	if listen != "" {
		s.Listen = listen
	}
	if data != "" {
		path, err := filepath.Abs(data)
		if err != nil {
			return usageErrorf("data directory: %w", err)
		}
		s.Data = path
	}
	return nil
}

// newLogger logs to standard error: lines for people on a terminal, JSON else.
func newLogger(level, format string) (*zap.Logger, error) {
	parsed, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, usageErrorf("log level %q: use debug, info, warn or error", level)
	}
	config := zap.NewProductionConfig()
	switch format {
	case "auto":
		if term.IsTerminal(int(os.Stderr.Fd())) {
			config = zap.NewDevelopmentConfig()
		}
	case "console":
		config = zap.NewDevelopmentConfig()
	case "json":
	default:
		return nil, usageErrorf("log format %q: use auto, console or json", format)
	}
	config.Level = zap.NewAtomicLevelAt(parsed)
	config.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	config.DisableStacktrace = true
	config.DisableCaller = true
	log, err := config.Build()
	if err != nil {
		return nil, fmt.Errorf("start logging: %w", err)
	}
	return log, nil
}
