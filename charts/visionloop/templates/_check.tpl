{{/* Why the programs of one release cannot work together; each line says what to change. What one
program alone gets wrong its own chart says. */}}
{{- define "umbrella.problems" -}}
{{- $labeling := index .Values "labeling-ingest" -}}
{{- $inference := .Values.inference -}}
{{- if and $labeling.enabled (eq $labeling.inference.address `{{ .Release.Name }}-inference:8001`) }}
{{- if not $inference.enabled }}
- inference.enabled is false, and labeling-ingest.inference.address is the service of this release; name another, or "" for no suggestions.
{{- else }}
{{- $asked := printf "%s-inference" .Release.Name -}}
{{- $named := $inference.fullnameOverride | default $asked -}}
{{- if ne $named $asked }}
- inference.fullnameOverride calls the service {{ $named }}, and labeling-ingest.inference.address is {{ $asked }}:8001; set it to {{ $named }}:8001.
{{- end }}
{{- if and (ne $inference.tls.mode "off") (not $labeling.inference.caSecret) }}
- inference.tls.mode is {{ $inference.tls.mode }}, and labeling-ingest asks it in the clear; name the Secret with ca.crt in labeling-ingest.inference.caSecret, or set labeling-ingest.inference.address="" for no suggestions.
{{- end }}
{{- if and $inference.auth.existingSecret (not $labeling.inference.tokenSecret) }}
- inference.auth.existingSecret wants tokens, and labeling-ingest has none; name its Secret in labeling-ingest.inference.tokenSecret, or set labeling-ingest.inference.address="" for no suggestions.
{{- end }}
{{- if $inference.tls.clientCaSecret }}
- inference.tls.clientCaSecret wants certificates of all clients, and labeling-ingest has none; set labeling-ingest.inference.address="" for no suggestions, or know callers by inference.auth.existingSecret.
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
