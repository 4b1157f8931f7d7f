package webhook

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/routesteward/routesteward/policy/settings"
)

// CertsMode says where the serving certificate comes from.
type CertsMode string

const (
	// CertsEmbedded signs it with an authority of our own that is kept in a Secret.
	CertsEmbedded CertsMode = "embedded"
	// CertsCertManager reads it from a Secret that cert-manager keeps, mounted as a directory; cert-manager's cainjector
	// writes the caBundle.
	CertsCertManager CertsMode = "cert-manager"
	// CertsFiles reads it from a directory and reloads it on change.
	CertsFiles CertsMode = "files"
)

// LogFormat is how log lines are written.
type LogFormat string

const (
	// LogJSON writes one JSON object a line.
	LogJSON LogFormat = "json"
	// LogText writes key=value pairs.
	LogText LogFormat = "text"
)

// LogLevel is the least important line that is logged.
type LogLevel string

const (
	// LogError logs what needs somebody's attention.
	LogError LogLevel = "error"
	// LogInfo adds one line a decision and what is done to grants.
	LogInfo LogLevel = "info"
	// LogDebug adds what explains the rest.
	LogDebug LogLevel = "debug"
)

// metricsOff in place of an address switches off the metrics, as controller-runtime spells it.
const metricsOff = "0"

// Options are how the webhook is served, as opposed to what it decides (policy.Config). The zero value is not valid;
// start from DefaultOptions.
type Options struct {
	// Version of the program, as metrics report it. No flag sets it.
	Version string
	// Kubeconfig is the path of the file that says where the API server is. Empty: what the KUBECONFIG environment
	// variable names, else ~/.kube/config, else the Pod's service account.
	Kubeconfig string
	// Namespace is routesteward's own: its Service, its Lease and its Secret live there.
	Namespace string
	// WebhookBindAddress is the HOST:PORT of the admission endpoint.
	WebhookBindAddress string
	// MetricsBindAddress is the HOST:PORT of /metrics, or "0" for none. Port 0 is a free port.
	MetricsBindAddress string
	// HealthProbeBindAddress is the HOST:PORT of /healthz and /readyz. Port 0 is a free port.
	HealthProbeBindAddress string
	// LeaderElect makes the replicas choose one that reconciles; every replica serves admission.
	LeaderElect bool
	// WebhookConfiguration names the webhook configurations that are kept in step with the flags and the CA; empty: none.
	WebhookConfiguration string
	// WebhookService names the Service in Namespace through which the API server calls; WebhookURL takes its place.
	WebhookService string
	// WebhookURL is the https://HOST:PORT that the API server calls where there is no Service, as outside a cluster.
	WebhookURL string
	// Certs says where the serving certificate comes from.
	Certs CertsMode
	// CertDir holds tls.crt and tls.key, and with CertsFiles ca.crt; not read with CertsEmbedded.
	CertDir string
	// CASecret names the Secret in Namespace that keeps the authority of CertsEmbedded.
	CASecret string
	// CADuration and LeafDuration are the lifetimes of the certificates of CertsEmbedded.
	CADuration, LeafDuration time.Duration
	// ClientCAFile holds the authorities that sign the client certificate of the API server, in PEM; it is read again on change.
	// Empty: anybody may call the admission endpoint.
	ClientCAFile string
	// ClientNames are the common names or DNS names of which that certificate must carry one.
	ClientNames []string
	// GrantGrace is how long a managed grant that nothing needs is kept, so that an admission in flight is not undone.
	GrantGrace time.Duration
	// ScanInterval is the time between two background scans of all routes by the elected replica; 0: none.
	ScanInterval time.Duration
	// ShutdownDelay is how long a stopping replica still serves after it reported itself unready.
	ShutdownDelay time.Duration
	// KubeAPIQPS and KubeAPIBurst bound the requests to the API server: per second, and at once. Every new grant is one, so a
	// low bound slows admissions down; the API server protects itself by priority and fairness.
	KubeAPIQPS   float32
	KubeAPIBurst int
	LogFormat    LogFormat
	LogLevel     LogLevel
}

// DefaultOptions are those of a routesteward that was given no flags.
func DefaultOptions() Options {
	return Options{
		Namespace:              "routesteward-system",
		WebhookBindAddress:     ":9443",
		MetricsBindAddress:     ":8080",
		HealthProbeBindAddress: ":8081",
		LeaderElect:            true,
		WebhookConfiguration:   "routesteward",
		WebhookService:         "routesteward",
		Certs:                  CertsEmbedded,
		CASecret:               "routesteward-ca",
		CADuration:             8760 * time.Hour,
		LeafDuration:           168 * time.Hour,
		GrantGrace:             30 * time.Second,
		ScanInterval:           5 * time.Minute,
		ShutdownDelay:          5 * time.Second,
		KubeAPIQPS:             1000,
		KubeAPIBurst:           2000,
		LogFormat:              LogJSON,
		LogLevel:               LogInfo,
	}
}

// AddFlags binds every field to a flag. The defaults are what o holds.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig,
		"`FILE` that says where the API server is and who to be; empty: what KUBECONFIG names, else ~/.kube/config, else the Pod's service account")
	fs.StringVar(&o.Namespace, "namespace", o.Namespace,
		"`NAMESPACE` of routesteward itself: its Service, Lease and Secret")
	fs.StringVar(&o.WebhookBindAddress, "webhook-bind-address", o.WebhookBindAddress,
		"`HOST:PORT` of the admission endpoint; without HOST on every address")
	fs.StringVar(&o.MetricsBindAddress, "metrics-bind-address", o.MetricsBindAddress,
		"`HOST:PORT` of /metrics; 0 switches it off")
	fs.StringVar(&o.HealthProbeBindAddress, "health-probe-bind-address", o.HealthProbeBindAddress,
		"`HOST:PORT` of /healthz and /readyz")
	fs.BoolVar(&o.LeaderElect, "leader-elect", o.LeaderElect,
		"elect one replica that keeps ReferenceGrants and relocated copies, and scans; every replica serves admission. Switch it off (=false) for a single replica only")
	fs.StringVar(&o.WebhookConfiguration, "webhook-configuration", o.WebhookConfiguration,
		"`NAME` of the webhook configurations that are kept in step with the flags and the CA; empty: none")
	fs.StringVar(&o.WebhookService, "webhook-service", o.WebhookService,
		"`NAME` of the Service in --namespace that the API server calls")
	fs.StringVar(&o.WebhookURL, "webhook-url", o.WebhookURL,
		"`URL` that the API server calls instead of the Service, for running outside a cluster, such as https://127.0.0.1:9443")
	settings.EnumVar(fs, &o.Certs, "certs",
		"where the serving certificate comes from: an authority of our own (embedded), a Secret of cert-manager's that is mounted at --cert-dir while cainjector writes the caBundle (cert-manager), or --cert-dir and nobody else (files)",
		CertsEmbedded, CertsCertManager, CertsFiles)
	fs.StringVar(&o.CertDir, "cert-dir", o.CertDir,
		"`DIRECTORY` with tls.crt, tls.key and, for --certs=files, ca.crt, reloaded when they change; with --certs=cert-manager or files")
	fs.StringVar(&o.CASecret, "ca-secret", o.CASecret,
		"`NAME` of the Secret in --namespace that keeps the authority of --certs=embedded")
	fs.DurationVar(&o.CADuration, "ca-duration", o.CADuration,
		"`LIFETIME` of the authority of --certs=embedded; it is renewed in time")
	fs.DurationVar(&o.LeafDuration, "leaf-duration", o.LeafDuration,
		"`LIFETIME` of the serving certificate of --certs=embedded; it is renewed in time")
	fs.StringVar(&o.ClientCAFile, "client-ca-file", o.ClientCAFile,
		"`FILE` with the authorities, in PEM, that sign the client certificate which the API server must show to call the webhook, reloaded when it changes; empty: anybody who reaches the port may call")
	settings.ListVar(fs, &o.ClientNames, "client-names",
		"`NAMES` of which the API server's client certificate must carry one, as common name or DNS name; with --client-ca-file")
	fs.DurationVar(&o.GrantGrace, "grant-grace", o.GrantGrace,
		"`TIME` that a managed ReferenceGrant is kept once no route needs it, so that an admission in flight is not undone; below 15s it may be")
	fs.DurationVar(&o.ScanInterval, "scan-interval", o.ScanInterval,
		"`TIME` between two background scans, in which the elected replica audits all routes, sets metrics and writes Events on routes with new problems; 0 switches them off")
	fs.DurationVar(&o.ShutdownDelay, "shutdown-delay", o.ShutdownDelay,
		"`TIME` that a stopping replica still serves after it reported itself unready")
	fs.Float32Var(&o.KubeAPIQPS, "kube-api-qps", o.KubeAPIQPS,
		"`REQUESTS` a second to the API server, at most")
	fs.IntVar(&o.KubeAPIBurst, "kube-api-burst", o.KubeAPIBurst,
		"`REQUESTS` to the API server at once, at most")
	settings.EnumVar(fs, &o.LogFormat, "log-format", "how log lines are written to standard error", LogJSON, LogText)
	settings.EnumVar(fs, &o.LogLevel, "log-level", "the least important lines that are logged", LogError, LogInfo, LogDebug)
}

// Validate reports every fault at once; each error's field is the flag that carries the value.
func (o Options) Validate() field.ErrorList {
	return slices.Concat(o.validateAddresses(), o.validateNames(), o.validateCerts(), o.validateTuning())
}

func (o Options) validateAddresses() field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, hostPort("--webhook-bind-address", o.WebhookBindAddress, 1)...)
	if o.MetricsBindAddress != metricsOff {
		errs = append(errs, hostPort("--metrics-bind-address", o.MetricsBindAddress, 0)...)
	}
	errs = append(errs, hostPort("--health-probe-bind-address", o.HealthProbeBindAddress, 0)...)
	if o.WebhookURL == "" {
		return errs
	}
	path := field.NewPath("--webhook-url")
	switch parsed, err := url.Parse(o.WebhookURL); {
	case err != nil || parsed.Scheme != "https" || parsed.Host == "":
		errs = append(errs, field.Invalid(path, o.WebhookURL, "want https://HOST:PORT; the API server calls webhooks over HTTPS only"))
	case parsed.User != nil || parsed.Path != "" || parsed.RawQuery != "" || parsed.Fragment != "":
		errs = append(errs, field.Invalid(path, o.WebhookURL, "want https://HOST:PORT and nothing more; routesteward adds the paths"))
	case o.WebhookConfiguration == "" && o.Certs != CertsEmbedded:
		errs = append(errs, field.Invalid(path, o.WebhookURL, fmt.Sprintf("is for webhook configurations and embedded certificates, but --webhook-configuration is empty and --certs=%s", o.Certs)))
	}
	return errs
}

func (o Options) validateNames() field.ErrorList {
	errs := objectName("--namespace", o.Namespace, validation.IsDNS1123Label)
	if o.WebhookConfiguration != "" {
		errs = append(errs, objectName("--webhook-configuration", o.WebhookConfiguration, validation.IsDNS1123Subdomain)...)
	}
	switch {
	case o.WebhookService != "":
		errs = append(errs, objectName("--webhook-service", o.WebhookService, validation.IsDNS1035Label)...)
	case o.WebhookURL == "" && (o.WebhookConfiguration != "" || o.Certs == CertsEmbedded):
		errs = append(errs, field.Required(field.NewPath("--webhook-service"), "the API server has to call something: name the Service, or give --webhook-url"))
	}
	return errs
}

func (o Options) validateCerts() field.ErrorList {
	var errs field.ErrorList
	dir := field.NewPath("--cert-dir")
	switch o.Certs {
	case CertsEmbedded:
		if o.CertDir != "" {
			errs = append(errs, field.Invalid(dir, o.CertDir, "is read with --certs=cert-manager and --certs=files only"))
		}
		errs = append(errs, objectName("--ca-secret", o.CASecret, validation.IsDNS1123Subdomain)...)
		errs = append(errs, atLeast("--ca-duration", o.CADuration, time.Second)...)
		errs = append(errs, atLeast("--leaf-duration", o.LeafDuration, time.Second)...)
		if len(errs) == 0 && o.LeafDuration >= o.CADuration {
			errs = append(errs, field.Invalid(field.NewPath("--leaf-duration"), o.LeafDuration.String(), "must be shorter than --ca-duration"))
		}
	case CertsCertManager:
		if o.CertDir == "" {
			errs = append(errs, field.Required(dir, "--certs=cert-manager needs the directory where the Certificate's Secret is mounted"))
		}
	case CertsFiles:
		if o.CertDir == "" {
			errs = append(errs, field.Required(dir, "--certs=files needs the directory of tls.crt, tls.key and ca.crt"))
		}
	default:
		errs = append(errs, field.NotSupported(field.NewPath("--certs"), o.Certs, []CertsMode{CertsEmbedded, CertsCertManager, CertsFiles}))
	}
	switch names := field.NewPath("--client-names"); {
	case o.ClientCAFile != "" && len(o.ClientNames) == 0:
		errs = append(errs, field.Required(names, "an authority signs other certificates too: name the one of the API server that may call"))
	case o.ClientCAFile == "" && len(o.ClientNames) > 0:
		errs = append(errs, field.Invalid(names, strings.Join(o.ClientNames, ","), "is checked with --client-ca-file only"))
	}
	return errs
}

func (o Options) validateTuning() field.ErrorList {
	errs := atLeast("--grant-grace", o.GrantGrace, time.Second)
	if o.ScanInterval != 0 {
		errs = append(errs, atLeast("--scan-interval", o.ScanInterval, time.Second)...)
	}
	errs = append(errs, atLeast("--shutdown-delay", o.ShutdownDelay, 0)...)
	if !(o.KubeAPIQPS > 0) { // not <= 0: NaN is refused too
		errs = append(errs, field.Invalid(field.NewPath("--kube-api-qps"), o.KubeAPIQPS, "must be above 0"))
	}
	if o.KubeAPIBurst < 1 {
		errs = append(errs, field.Invalid(field.NewPath("--kube-api-burst"), int64(o.KubeAPIBurst), "must be at least 1"))
	}
	if formats := []LogFormat{LogJSON, LogText}; !slices.Contains(formats, o.LogFormat) {
		errs = append(errs, field.NotSupported(field.NewPath("--log-format"), o.LogFormat, formats))
	}
	if levels := []LogLevel{LogError, LogInfo, LogDebug}; !slices.Contains(levels, o.LogLevel) {
		errs = append(errs, field.NotSupported(field.NewPath("--log-level"), o.LogLevel, levels))
	}
	return errs
}

// Logger writes to w in the format and from the level that the options name. V(1) is debug.
func (o Options) Logger(w io.Writer) *slog.Logger {
	level := map[LogLevel]slog.Level{LogError: slog.LevelError, LogInfo: slog.LevelInfo, LogDebug: slog.LevelDebug}[o.LogLevel]
	handler := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
		if len(groups) > 0 || attr.Key != slog.LevelKey { // most attributes, so nothing is allocated for them
			return attr
		}
		if level, ok := attr.Value.Any().(slog.Level); ok && level < slog.LevelInfo {
			attr.Value = slog.StringValue(slog.LevelDebug.String()) // V(1) is DEBUG+3 to slog
		}
		return attr
	}}
	if o.LogFormat == LogText {
		return slog.New(slog.NewTextHandler(w, handler))
	}
	return slog.New(slog.NewJSONHandler(w, handler))
}

// hostPort accepts ports from least on. Port 0 is a free port to a listener, but the default port to the webhook server.
func hostPort(flag, value string, least uint64) field.ErrorList {
	if _, port, err := net.SplitHostPort(value); err == nil {
		if number, err := strconv.ParseUint(port, 10, 16); err == nil && number >= least {
			return nil
		}
	}
	return field.ErrorList{field.Invalid(field.NewPath(flag), value, fmt.Sprintf("want HOST:PORT or :PORT, the port from %d to 65535", least))}
}

func objectName(flag, value string, check func(string) []string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(field.NewPath(flag), "")}
	}
	var errs field.ErrorList
	for _, msg := range check(value) {
		errs = append(errs, field.Invalid(field.NewPath(flag), value, msg))
	}
	return errs
}

func atLeast(flag string, value, least time.Duration) field.ErrorList {
	if value >= least {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath(flag), value.String(), "must be at least "+least.String())}
}
