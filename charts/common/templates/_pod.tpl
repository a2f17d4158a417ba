{{/* What every pod of the suite has, whichever program it runs. Takes the root context. */}}
{{- define "visionloop.podCommon" -}}
serviceAccountName: {{ include "visionloop.serviceAccountName" . }}
automountServiceAccountToken: false
# Else a Service called visionloop-x would set VISIONLOOP_X_PORT, which reads as a program's setting.
enableServiceLinks: false
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "visionloop.podSecurity" . | nindent 0 }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The restricted Pod Security Standard, and more: a user of our own, a read-only root. */}}
{{- define "visionloop.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  {{- if not .Values.global.openshift }}
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  {{- end }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "visionloop.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* Replicas on different nodes and zones where there are any; never a reason not to start. */}}
{{- define "visionloop.topologySpread" -}}
{{- if .Values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "visionloop.selector" $ | nindent 8 }}
    # Counts the pods of one revision, so that those on their way out do not tip the balance.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end -}}

{{/* The address to listen on: all of the pod's. */}}
{{- define "visionloop.host" -}}
{{ ternary "::" "0.0.0.0" (.Values.global.ipv6 | default false) }}
{{- end -}}

{{/* Settings of a program, as flags. Takes a map: name without dashes in front -> value. */}}
{{- define "visionloop.flags" -}}
{{- range $name, $value := . }}
{{- if kindIs "slice" $value }}
- --{{ $name }}={{ join "," $value }}
{{- else if kindIs "bool" $value }}
{{- if $value }}
- --{{ $name }}
{{- end }}
{{- else if kindIs "float64" $value }}
- --{{ $name }}={{ if eq $value (floor $value) }}{{ int64 $value }}{{ else }}{{ $value }}{{ end }}
{{- else }}
- --{{ $name }}={{ $value }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "visionloop.extraEnv" -}}
{{- with .Values.extraEnv }}
{{- toYaml . }}
{{- end }}
{{- end -}}
