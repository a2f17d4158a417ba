{{/* The program's command line. What the chart itself decides stands first; `settings` cannot name
it (values.schema.json refuses that). */}}
{{- define "labeling.args" -}}
- "--host={{ include "visionloop.host" . }}"
- --http-port=8080
- --grpc-port=8081
- --probe-port=8082
{{- with tpl .Values.inference.address . }}
- --inference={{ . }}
{{- end }}
{{- if .Values.inference.tokenSecret }}
- --inference-token-file=/etc/visionloop/inference-token/token
{{- end }}
{{- if .Values.inference.caSecret }}
- --inference-ca=/etc/visionloop/inference-ca/ca.crt
{{- end }}
{{- if .Values.accounts }}
- --accounts
{{- end }}
{{- with .Values.trustedProxies }}
- --trusted-proxies={{ join "," . }}
{{- end }}
{{- with .Values.imports.from }}
- --import-from={{ join "," . }}
{{- end }}
{{- with .Values.imports.networks }}
- --import-networks={{ join "," . }}
{{- end }}
- --import-ports={{ range $index, $port := .Values.imports.ports }}{{ if $index }},{{ end }}{{ int $port }}{{ end }}
{{- if ne .Values.tls.mode "off" }}
- --tls-certificate=/etc/visionloop/tls/tls.crt
- --tls-key=/etc/visionloop/tls/tls.key
{{- end }}
{{- if .Values.insecure }}
- --insecure
{{- end }}
- --drain-seconds={{ include "labeling.drainSeconds" . }}
{{- include "visionloop.flags" (omit .Values.settings "drain-seconds") }}
{{- end -}}

{{- define "labeling.drainSeconds" -}}
{{ index .Values.settings "drain-seconds" | default 25 }}
{{- end -}}

{{/* The database, whose address holds a password: by the environment, never in arguments. */}}
{{- define "labeling.databaseEnv" -}}
- name: VISIONLOOP_DATABASE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret }}
      key: uri
{{- if .Values.database.caSecret }}
- name: PGSSLMODE
  value: verify-full
- name: PGSSLROOTCERT
  value: /etc/visionloop/database-ca/ca.crt
{{- end }}
{{- end -}}

{{- define "labeling.databaseMounts" -}}
{{- if .Values.database.caSecret }}
- {name: database-ca, mountPath: /etc/visionloop/database-ca, readOnly: true}
{{- end }}
{{- end -}}
