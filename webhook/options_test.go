package webhook

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

func TestEveryOptionHasAFlag(t *testing.T) {
	var o Options
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	o.AddFlags(fs)
	require.NoError(t, fs.Parse([]string{"--kubeconfig=a", "--namespace=b", "--webhook-bind-address=c", "--metrics-bind-address=d",
		"--health-probe-bind-address=e", "--leader-elect", "--webhook-configuration=f", "--webhook-service=g", "--webhook-url=h",
		"--certs=i", "--cert-dir=j", "--ca-secret=k", "--ca-duration=1s", "--leaf-duration=2s", "--client-ca-file=n", "--client-names=o,p", "--grant-grace=3s",
		"--scan-interval=7s", "--shutdown-delay=4s", "--kube-api-qps=5.5", "--kube-api-burst=6", "--log-format=l", "--log-level=m"}))
	require.Equal(t, Options{
		Kubeconfig: "a", Namespace: "b", WebhookBindAddress: "c", MetricsBindAddress: "d", HealthProbeBindAddress: "e",
		LeaderElect: true, WebhookConfiguration: "f", WebhookService: "g", WebhookURL: "h", Certs: "i", CertDir: "j", CASecret: "k",
		CADuration: time.Second, LeafDuration: 2 * time.Second, ClientCAFile: "n", ClientNames: []string{"o", "p"}, GrantGrace: 3 * time.Second, ScanInterval: 7 * time.Second, ShutdownDelay: 4 * time.Second,
		KubeAPIQPS: 5.5, KubeAPIBurst: 6, LogFormat: "l", LogLevel: "m",
	}, o)
	for field, value := range reflect.ValueOf(o).Fields() {
		require.Equal(t, field.Name == "Version", value.IsZero(), "no flag sets %s", field.Name)
	}
}

func TestFlagsKeepTheDefaults(t *testing.T) {
	o := DefaultOptions()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	o.AddFlags(fs)
	require.NoError(t, fs.Parse(nil))
	require.Equal(t, DefaultOptions(), o)
}

func TestValidateOptions(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Options)
		want   []string
	}{
		"the defaults": {change: func(*Options) {}},
		"files": {change: func(o *Options) {
			o.Certs, o.CertDir = CertsFiles, "certs"
			o.CASecret, o.CADuration, o.LeafDuration = "", 0, 0 // not read
		}},
		"cert-manager":                   {change: func(o *Options) { o.Certs, o.CertDir = CertsCertManager, "certs" }},
		"clients":                        {change: func(o *Options) { o.ClientCAFile, o.ClientNames = "ca.crt", []string{"kube-apiserver"} }},
		"a URL instead of the Service":   {change: func(o *Options) { o.WebhookService, o.WebhookURL = "", "https://127.0.0.1:9443" }},
		"a URL for the certificate only": {change: func(o *Options) { o.WebhookConfiguration, o.WebhookURL = "", "https://127.0.0.1:9443" }},
		"nothing to call or to certify": {change: func(o *Options) {
			o.WebhookConfiguration, o.WebhookService, o.Certs, o.CertDir = "", "", CertsFiles, "certs"
		}},
		"edges": {change: func(o *Options) {
			o.WebhookBindAddress, o.MetricsBindAddress, o.HealthProbeBindAddress = "[::1]:1", "0", "localhost:65535"
			o.GrantGrace, o.ScanInterval, o.ShutdownDelay, o.KubeAPIQPS, o.KubeAPIBurst = time.Second, 0, 0, 0.1, 1
			o.CADuration, o.LeafDuration = 2*time.Second, time.Second
		}},
		"addresses": {
			change: func(o *Options) {
				o.WebhookBindAddress, o.MetricsBindAddress, o.HealthProbeBindAddress = "9443", ":http", "0"
			},
			want: []string{
				`--webhook-bind-address: Invalid value: "9443": want HOST:PORT or :PORT, the port from 1 to 65535`,
				`--metrics-bind-address: Invalid value: ":http": want HOST:PORT or :PORT, the port from 0 to 65535`,
				`--health-probe-bind-address: Invalid value: "0": want HOST:PORT or :PORT, the port from 0 to 65535`,
			},
		},
		"any port": {
			change: func(o *Options) {
				o.WebhookBindAddress, o.MetricsBindAddress, o.HealthProbeBindAddress = ":0", ":0", ":0"
			},
			want: []string{`--webhook-bind-address: Invalid value: ":0": want HOST:PORT or :PORT, the port from 1 to 65535`},
		},
		"a port too high": {
			change: func(o *Options) { o.WebhookBindAddress = ":65536" },
			want:   []string{`--webhook-bind-address: Invalid value: ":65536": want HOST:PORT or :PORT, the port from 1 to 65535`},
		},
		"a URL that is not https": {
			change: func(o *Options) { o.WebhookURL = "http://127.0.0.1:9443" },
			want:   []string{`--webhook-url: Invalid value: "http://127.0.0.1:9443": want https://HOST:PORT; the API server calls webhooks over HTTPS only`},
		},
		"a URL that is none": {
			change: func(o *Options) { o.WebhookURL = "127.0.0.1:9443" },
			want:   []string{`--webhook-url: Invalid value: "127.0.0.1:9443": want https://HOST:PORT; the API server calls webhooks over HTTPS only`},
		},
		"a URL without a host": {
			change: func(o *Options) { o.WebhookURL = "https:///validate" },
			want:   []string{`--webhook-url: Invalid value: "https:///validate": want https://HOST:PORT; the API server calls webhooks over HTTPS only`},
		},
		"a URL with a path": {
			change: func(o *Options) { o.WebhookURL = "https://a:1/validate" },
			want:   []string{`--webhook-url: Invalid value: "https://a:1/validate": want https://HOST:PORT and nothing more; routesteward adds the paths`},
		},
		"a URL with a slash": {
			change: func(o *Options) { o.WebhookURL = "https://a:1/" },
			want:   []string{`--webhook-url: Invalid value: "https://a:1/": want https://HOST:PORT and nothing more; routesteward adds the paths`},
		},
		"a URL that nothing uses": {
			change: func(o *Options) {
				o.WebhookURL, o.WebhookConfiguration, o.Certs, o.CertDir = "https://a:1", "", CertsFiles, "certs"
			},
			want: []string{`--webhook-url: Invalid value: "https://a:1": is for webhook configurations and embedded certificates, but --webhook-configuration is empty and --certs=files`},
		},
		"nothing to call": {
			change: func(o *Options) { o.WebhookService = "" },
			want:   []string{`--webhook-service: Required value: the API server has to call something: name the Service, or give --webhook-url`},
		},
		"nobody to certify": {
			change: func(o *Options) { o.WebhookConfiguration, o.WebhookService = "", "" },
			want:   []string{`--webhook-service: Required value: the API server has to call something: name the Service, or give --webhook-url`},
		},
		"names": {
			change: func(o *Options) { o.Namespace, o.CASecret = "", "" },
			want:   []string{`--namespace: Required value`, `--ca-secret: Required value`},
		},
		"certs": {
			change: func(o *Options) { o.Certs = "letsencrypt" },
			want:   []string{`--certs: Unsupported value: "letsencrypt": supported values: "embedded", "cert-manager", "files"`},
		},
		"files without a directory": {
			change: func(o *Options) { o.Certs = CertsFiles },
			want:   []string{`--cert-dir: Required value: --certs=files needs the directory of tls.crt, tls.key and ca.crt`},
		},
		"no Secret's directory": {
			change: func(o *Options) { o.Certs = CertsCertManager },
			want:   []string{`--cert-dir: Required value: --certs=cert-manager needs the directory where the Certificate's Secret is mounted`},
		},
		"an authority without names": {
			change: func(o *Options) { o.ClientCAFile = "ca.crt" },
			want:   []string{`--client-names: Required value: an authority signs other certificates too: name the one of the API server that may call`},
		},
		"names without an authority": {
			change: func(o *Options) { o.ClientNames = []string{"a", "b"} },
			want:   []string{`--client-names: Invalid value: "a,b": is checked with --client-ca-file only`},
		},
		"a directory that nothing reads": {
			change: func(o *Options) { o.CertDir = "certs" },
			want:   []string{`--cert-dir: Invalid value: "certs": is read with --certs=cert-manager and --certs=files only`},
		},
		"a leaf that outlives its authority": {
			change: func(o *Options) { o.LeafDuration = o.CADuration },
			want:   []string{`--leaf-duration: Invalid value: "8760h0m0s": must be shorter than --ca-duration`},
		},
		"durations": {
			change: func(o *Options) {
				o.CADuration, o.LeafDuration, o.GrantGrace, o.ScanInterval, o.ShutdownDelay = 0, -1, 999*time.Millisecond, -1, -1
			},
			want: []string{
				`--ca-duration: Invalid value: "0s": must be at least 1s`,
				`--leaf-duration: Invalid value: "-1ns": must be at least 1s`,
				`--grant-grace: Invalid value: "999ms": must be at least 1s`,
				`--scan-interval: Invalid value: "-1ns": must be at least 1s`,
				`--shutdown-delay: Invalid value: "-1ns": must be at least 0s`,
			},
		},
		"rates and logs": {
			change: func(o *Options) { o.KubeAPIQPS, o.KubeAPIBurst, o.LogFormat, o.LogLevel = 0, 0, "xml", "warn" },
			want: []string{
				`--kube-api-qps: Invalid value: 0: must be above 0`,
				`--kube-api-burst: Invalid value: 0: must be at least 1`,
				`--log-format: Unsupported value: "xml": supported values: "json", "text"`,
				`--log-level: Unsupported value: "warn": supported values: "error", "info", "debug"`,
			},
		},
		"a rate that is no number": {
			change: func(o *Options) { o.KubeAPIQPS = float32(math.NaN()) },
			want:   []string{`--kube-api-qps: Invalid value: NaN: must be above 0`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := DefaultOptions()
			test.change(&o)
			var got []string
			for _, err := range o.Validate() {
				got = append(got, err.Error())
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestNamesOfObjectsAreChecked(t *testing.T) {
	for flag, change := range map[string]func(*Options){
		"--namespace":             func(o *Options) { o.Namespace = "Team_A" },
		"--webhook-configuration": func(o *Options) { o.WebhookConfiguration = "Team_A" },
		"--webhook-service":       func(o *Options) { o.WebhookService = "Team_A" },
		"--ca-secret":             func(o *Options) { o.CASecret = "Team_A" },
	} {
		o := DefaultOptions()
		change(&o)
		errs := o.Validate()
		require.Len(t, errs, 1, flag)
		require.Equal(t, flag, errs[0].Field)
		require.Equal(t, "Team_A", errs[0].BadValue)
	}
}

func TestLogger(t *testing.T) {
	for name, test := range map[string]struct {
		format LogFormat
		level  LogLevel
		want   string // without the time, which each line begins with
	}{
		"error": {LogText, LogError, "level=ERROR msg=failed err=why\n"},
		"info":  {LogText, LogInfo, "level=INFO msg=said n=1\nlevel=ERROR msg=failed err=why\n"},
		"debug": {LogText, LogDebug, "level=DEBUG msg=detail\nlevel=INFO msg=said n=1\nlevel=ERROR msg=failed err=why\n"},
		"json":  {LogJSON, LogInfo, `"level":"INFO","msg":"said","n":1}` + "\n" + `"level":"ERROR","msg":"failed","err":"why"}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			logger := logr.FromSlogHandler(Options{LogFormat: test.format, LogLevel: test.level}.Logger(&out).Handler())
			logger.V(1).Info("detail")
			logger.Info("said", "n", 1)
			logger.Error(errors.New("why"), "failed")
			var got []byte
			for line := range bytes.Lines(out.Bytes()) {
				_, rest, _ := bytes.Cut(line, []byte(map[LogFormat]string{LogText: " ", LogJSON: ","}[test.format]))
				got = append(got, rest...)
			}
			require.Equal(t, test.want, string(got))
		})
	}
}
