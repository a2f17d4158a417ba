{{/* The program's command line. What the chart itself decides stands first; `settings` cannot name
it (values.schema.json refuses that). */}}
{{- define "inference.args" -}}
- "--host={{ include "visionloop.host" . }}"
- --port=8001
- --http-port=8002
- --cache=/var/cache/visionloop/models
{{- with .Values.models }}
- --models={{ join "," . }}
{{- end }}
{{- if ne .Values.gpu.mode "none" }}
- --provider={{ .Values.gpu.provider }}
{{- if eq .Values.gpu.provider "tensorrt" }}
- --engine-cache=/var/cache/visionloop/engines
{{- end }}
{{- end }}
{{- if ne .Values.tls.mode "off" }}
- --https-port=8003
- --tls-certificate=/etc/visionloop/tls/tls.crt
- --tls-key=/etc/visionloop/tls/tls.key
{{- end }}
{{- if .Values.tls.clientCaSecret }}
- --tls-client-ca=/etc/visionloop/client-ca/ca.crt
{{- end }}
{{- if .Values.auth.existingSecret }}
- --tokens=/etc/visionloop/auth/{{ .Values.auth.key }}
{{- end }}
{{- if .Values.insecure }}
- --insecure
{{- end }}
- --drain-seconds={{ include "inference.drainSeconds" . }}
{{- include "visionloop.flags" (omit .Values.settings "drain-seconds") }}
{{- end -}}

{{- define "inference.drainSeconds" -}}
{{ index .Values.settings "drain-seconds" | default 25 }}
{{- end -}}

{{- define "inference.imageRepository" -}}
{{ ternary "visionloop/inference-cpu" "visionloop/inference-cuda" (eq .Values.gpu.mode "none") }}
{{- end -}}

{{/* The test's pod is none of the Service's. */}}
{{- define "inference.testSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "inference.toolboxSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-toolbox
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
