{{- define "tv3sd.name" -}}
{{- ternary .Release.Name (printf "%s-tv3sd" .Release.Name) (contains "tv3sd" .Release.Name) | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "tv3sd.selector" -}}
app.kubernetes.io/name: tv3sd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tv3sd.labels" -}}
{{ include "tv3sd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "tv3sd.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (ternary "cuda" "cpu" .Values.gpu.enabled) }}
{{- end }}

{{/* A setting's value as an environment variable has it; YAML's numbers are floats here. */}}
{{- define "tv3sd.value" -}}
{{- if kindIs "float64" . }}{{ if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else if kindIs "slice" . }}{{ join "," . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "tv3sd.keysSecret" -}}
{{ .Values.keys.secret | default (ternary (printf "%s-keys" (include "tv3sd.name" .)) "" (ne .Values.keys.file "")) }}
{{- end }}

{{- define "tv3sd.mostReplicas" -}}
{{ ternary .Values.autoscaling.maxReplicas .Values.replicas .Values.autoscaling.enabled | int }}
{{- end }}

{{/* Containers that run as nobody, on a root file system that is not written. */}}
{{- define "tv3sd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* deploy/haproxy.cfg for these replicas: its lines of the first once for each, none of the others'; names from the
     cluster's DNS, asked again while it runs; and its certificate, where there is one. */}}
{{- define "tv3sd.haproxy" -}}
{{- $name := include "tv3sd.name" . -}}
{{- $domain := printf "%s-pods.%s.svc.%s" $name .Release.Namespace .Values.clusterDomain -}}
{{- $most := include "tv3sd.mostReplicas" . | int -}}
{{- $bind := ternary "bind :8080 ssl crt /etc/tv3sd/tls/tls.crt alpn h2,http/1.1" "bind :8080" (ne .Values.tls.secret "") -}}
{{- range $line := splitList "\n" (.Files.Get "haproxy.cfg") }}
{{- if contains "tv3sd-1" $line }}
{{- range $i := until $most }}
{{- $line | replace "tv3sd-1:" "ADDRESS:" | replace "tv3sd-1" (printf "replica-%d" $i) | replace "id 1 " (printf "id %d " (add1 $i)) | replace "ADDRESS:" (printf "%s-%d.%s:" $name $i $domain) }}
{{ end }}
{{- else if not (regexMatch "tv3sd-[23]" $line) }}
{{- $line | replace "default-server " "default-server resolvers cluster " | replace "bind :8080" $bind }}
{{ end }}
{{- end }}
resolvers cluster
    parse-resolv-conf
    hold valid 2s
    hold obsolete 30s
    accepted_payload_size 8192
{{- end }}
