{{- /* Metadata that every object has. Names are fixed: one routesteward evaluates a whole cluster, so there is one release of it. */}}
{{- define "routesteward.labels" -}}
app.kubernetes.io/name: routesteward
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- /* What selects the Pods. It can never change: a Deployment's selector is immutable. */}}
{{- define "routesteward.selector" -}}
app.kubernetes.io/name: routesteward
app.kubernetes.io/component: webhook
{{- end }}

{{- /* The resources of all kinds of routes. */}}
{{- define "routesteward.routes" -}}
{{ (.Files.Get "files/kinds.yaml" | fromYaml).resources | join ", " }}
{{- end }}

{{- /* Their kinds as CEL strings. */}}
{{- define "routesteward.quoted" -}}
{{ . | toJson | trimAll "[]" | replace "," ", " }}
{{- end }}

{{- /* The value of every flag, as YAML: what is in .Values.flags, what the chart has to set, the program's default. */}}
{{- define "routesteward.flags" -}}
{{- $flags := mergeOverwrite (.Files.Get "files/flags.yaml" | fromYaml) (include "routesteward.givenFlags" . | fromYaml) }}
{{- if ne $flags.namespace .Release.Namespace }}
{{- fail (printf "flags.namespace is %q, but routesteward runs in the release's namespace, %q: leave it out, and choose the namespace with helm's --namespace" $flags.namespace .Release.Namespace) }}
{{- end }}
{{- if and (not (index $flags "leader-elect")) (gt (int .Values.replicas) 1) }}
{{- fail "flags.leader-elect is false with more than one replica: they would undo each other's work; set replicas: 1 too" }}
{{- end }}
{{- range $flag := list "webhook-bind-address" "health-probe-bind-address" "metrics-bind-address" }}
{{- $address := index $flags $flag }}
{{- $off := and (eq $flag "metrics-bind-address") (eq $address "0") }}
{{- if and (not $off) (lt ($address | regexFind "[0-9]+$" | int) 1) }}
{{- fail (printf "flags.%s is %q, but the Service and the probes need to know the port: want :PORT, from 1 to 65535" $flag $address) }}
{{- end }}
{{- end }}
{{- if and (eq $flags.certs "files") (not .Values.certs.secretName) (not .Values.extraVolumeMounts) }}
{{- fail "flags.certs is files: set certs.secretName to the Secret that has tls.crt, tls.key and ca.crt" }}
{{- end }}
{{- if and (index $flags "client-ca-file") (not (index $flags "client-names")) }}
{{- fail "an authority signs other certificates too: name the API server's in flags.client-names" }}
{{- end }}
{{- toYaml $flags }}
{{- end }}

{{- /* The flags to start with, as YAML: .Values.flags, and those that must fit the rest of the chart. */}}
{{- define "routesteward.givenFlags" -}}
{{- $defaults := .Files.Get "files/flags.yaml" | fromYaml }}
{{- $given := dict "namespace" .Release.Namespace }}
{{- range $name, $value := .Values.flags }}
  {{- /* YAML reads off without quotes as false. */}}
  {{- if and (kindIs "bool" $value) (not (kindIs "bool" (index $defaults $name))) }}
    {{- $value = ternary "on" "off" $value }}
  {{- end }}
  {{- $_ := set $given $name $value }}
{{- end }}
{{- if and (ne ($given.certs | default "embedded") "embedded") (not (index $given "cert-dir")) }}
  {{- $_ := set $given "cert-dir" "/certs" }}
{{- end }}
{{- with .Values.clientCA }}
  {{- if and (or .configMap .secret) (not (index $given "client-ca-file")) }}
    {{- $_ := set $given "client-ca-file" (printf "/client-ca/%s" .key) }}
  {{- end }}
{{- end }}
{{- toYaml $given }}
{{- end }}

{{- /* The container's arguments, one a line. A list is one flag a value, quoted where a value holds a comma; lists and values
are given in the order of their names, so that rendering is deterministic. */}}
{{- define "routesteward.args" -}}
- serve
{{- range $name, $value := include "routesteward.givenFlags" . | fromYaml }}
{{- if kindIs "slice" $value }}
{{- range $item := $value | default (list "") }}
{{- if regexMatch "[,\"]" $item }}
{{- $item = printf "\"%s\"" ($item | replace "\"" "\"\"") }}
{{- end }}
- {{ printf "--%s=%s" $name $item | toJson }}
{{- end }}
{{- else if kindIs "string" $value }}
- {{ printf "--%s=%s" $name $value | toJson }}
{{- else }}
- {{ printf "--%s=%s" $name (toJson $value) | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The port of an address flag. Call it with (list $flags "FLAG"). */}}
{{- define "routesteward.port" -}}
{{- index (first .) (last .) | toString | regexFind "[0-9]+$" }}
{{- end }}

{{- define "routesteward.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default (printf "v%s" $.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- end }}
