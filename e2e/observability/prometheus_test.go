package observability

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/routesteward/routesteward/hack/localcluster"
)

// program is the path of a program that hack/prometheus built.
func program(t *testing.T, name string) string {
	t.Helper()
	root, err := localcluster.Root()
	require.NoError(t, err)
	path := filepath.Join(root, "bin", "prometheus", name)
	_, err = os.Stat(path)
	require.NoError(t, err, "run `make prometheus`")
	return path
}

// prometheus is a running Prometheus.
type prometheus struct{ url string }

// startPrometheus scrapes a routesteward, as a Prometheus in the cluster would, and the API server, and has the shipped alerts.
func startPrometheus(t *testing.T, server *localcluster.Server, api *rest.Config) *prometheus {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	target, err := url.Parse(server.MetricsURL)
	require.NoError(t, err)
	apiserver, err := url.Parse(api.Host)
	require.NoError(t, err)
	alerts, err := filepath.Abs(alertsFile)
	require.NoError(t, err)
	config := file("prometheus.yml", fmt.Appendf(nil, `
global: {evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
- job_name: routesteward
  scrape_interval: 1s
  scrape_timeout: 1s
  static_configs: [{targets: [%q], labels: {namespace: routesteward-system}}]
- job_name: apiserver
  scheme: https
  scrape_interval: 3s
  scrape_timeout: 3s
  tls_config: {ca_file: %q, cert_file: %q, key_file: %q}
  static_configs: [{targets: [%q]}]
`, alerts, target.Host, file("ca.crt", api.CAData), file("tls.crt", api.CertData), file("tls.key", api.KeyData), apiserver.Host))
	ports, err := localcluster.FreePorts(1)
	require.NoError(t, err)
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	process, err := localcluster.StartProcess(t.Context(), localcluster.ProcessOptions{
		Path: program(t, "prometheus"),
		Args: []string{"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + address, "--log.level=warn"},
		Log:  filepath.Join(dir, "prometheus.log"), Ready: localcluster.HTTPReady(nil, "http://"+address+"/-/ready"),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, process.Stop()) })
	return &prometheus{"http://" + address}
}

// get asks Prometheus' HTTP API and decodes the data of its answer.
func (p *prometheus) get(path string, parameters url.Values, data any) error {
	response, err := http.Get(p.url + "/api/v1/" + path + "?" + parameters.Encode())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", response.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return json.Unmarshal(answer.Data, data)
}

// query evaluates an expression now and returns its values.
func (p *prometheus) query(expr string) ([]string, error) {
	var data struct {
		ResultType string
		Result     json.RawMessage
	}
	if err := p.get("query", url.Values{"query": {expr}}, &data); err != nil {
		return nil, err
	}
	if data.ResultType == "scalar" {
		var value [2]any
		err := json.Unmarshal(data.Result, &value)
		return []string{fmt.Sprint(value[1])}, err
	}
	var vector []struct{ Value [2]any }
	if err := json.Unmarshal(data.Result, &vector); err != nil {
		return nil, err
	}
	var values []string
	for _, sample := range vector {
		values = append(values, fmt.Sprint(sample.Value[1]))
	}
	return values, nil
}

// metricsOf are the names of the metrics that an expression selects, by Prometheus' own parser.
func (p *prometheus) metricsOf(expr string) ([]string, error) {
	var tree any
	if err := p.get("parse_query", url.Values{"query": {expr}}, &tree); err != nil {
		return nil, err
	}
	var names []string
	var walk func(any)
	walk = func(node any) {
		switch node := node.(type) {
		case map[string]any:
			if kind := node["type"]; kind == "vectorSelector" || kind == "matrixSelector" {
				names = append(names, fmt.Sprint(node["name"]))
			}
			for _, child := range node {
				walk(child)
			}
		case []any:
			for _, child := range node {
				walk(child)
			}
		}
	}
	walk(tree)
	return names, nil
}

// body is what a GET answers.
func body(client *http.Client, url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return string(data), err
}
