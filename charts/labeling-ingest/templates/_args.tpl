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
{{- include "labeling.databaseTls" . }}
{{- end -}}

{{- define "labeling.databaseTls" -}}
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

{{- define "labeling.databaseVolumes" -}}
{{- with .Values.database.caSecret }}
- name: database-ca
  secret:
    secretName: {{ . }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end -}}

{{/* The backup's pod is none of the Service's. */}}
{{- define "labeling.backupSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-backup
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The store, by the service's own key, and the target, by its own. */}}
{{- define "labeling.backupEnv" -}}
{{- $backup := .Values.backup -}}
- name: TMPDIR
  value: /tmp
{{ include "visionloop.storeEnv" . }}
- name: VISIONLOOP_BACKUP_TARGET
  value: {{ $backup.target | quote }}
{{- with $backup.endpoint }}
- name: BACKUP_AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with $backup.region }}
- name: BACKUP_AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- if $backup.caBundleConfigMap }}
- name: BACKUP_AWS_CA_BUNDLE
  value: /etc/visionloop/backup-ca/ca.crt
{{- end }}
{{- with $backup.storeSecret }}
{{- range $key := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: BACKUP_{{ $key }}
  valueFrom:
    secretKeyRef:
      name: {{ $backup.storeSecret }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "labeling.backupMounts" -}}
- {name: backup, mountPath: /backup}
- {name: connection, mountPath: /connection}
- {name: tmp, mountPath: /tmp}
{{- include "visionloop.storeMounts" . }}
{{- if .Values.backup.caBundleConfigMap }}
- {name: backup-ca, mountPath: /etc/visionloop/backup-ca, readOnly: true}
{{- end }}
{{- include "labeling.databaseMounts" . }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
