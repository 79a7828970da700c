package registry

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/sirupsen/logrus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// distribution logs through logrus's global logger and offers no other way:
// that logger is turned into a bridge, once, to the newest registry's logger.
var (
	bridgeOnce   sync.Once
	bridgeTarget atomic.Pointer[zap.Logger]
)

func bridgeLogs(log *zap.Logger) {
	bridgeTarget.Store(log)
	bridgeOnce.Do(func() {
		logrus.SetOutput(io.Discard)
		logrus.SetFormatter(noFormat{})
		logrus.SetLevel(logrus.WarnLevel)
		logrus.AddHook(bridge{})
	})
}

// noFormat spares the rendering of what goes nowhere.
type noFormat struct{}

func (noFormat) Format(*logrus.Entry) ([]byte, error) { return nil, nil }

type bridge struct{}

func (bridge) Levels() []logrus.Level { return logrus.AllLevels }

func (bridge) Fire(entry *logrus.Entry) error {
	checked := bridgeTarget.Load().Check(severity(entry), "registry: "+entry.Message)
	if checked == nil {
		return nil
	}
	fields := make([]zap.Field, 0, len(entry.Data))
	for _, key := range []string{"http.request.method", "http.request.uri", "http.response.status", "err.code", "err.detail", "err.message", logrus.ErrorKey} {
		if value, ok := entry.Data[key]; ok {
			fields = append(fields, zap.Any(key, value))
		}
	}
	checked.Write(fields...)
	return nil
}

// severity: distribution calls every answer from 400 on an error, the "no such
// blob" that each push begins with among them.
func severity(entry *logrus.Entry) zapcore.Level {
	if status, ok := entry.Data["http.response.status"].(int); ok && status < 500 {
		return zapcore.DebugLevel
	}
	if entry.Level <= logrus.ErrorLevel {
		return zapcore.ErrorLevel
	}
	return zapcore.DebugLevel
}
