{{/* The name of the objects of one chart: RELEASE-CHART, whatever the release is called, so that one
can be told from the other. */}}
{{- define "visionloop.fullname" -}}
{{- .Values.fullnameOverride | default (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- end -}}

{{/* What selects the pods. Deployments refuse to change it: nothing that can vary belongs here. */}}
{{- define "visionloop.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of pods: no version of the chart, or each release of it would restart them. */}}
{{- define "visionloop.podLabels" -}}
{{ include "visionloop.selector" . }}
app.kubernetes.io/part-of: visionloop
{{- with merge (dict) .Values.podLabels (.Values.global.labels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "visionloop.labels" -}}
{{ include "visionloop.selector" . }}
app.kubernetes.io/part-of: visionloop
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.global.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "visionloop.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "visionloop.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* The image as one string. Takes root, image (the values), repository and registry (where the values name none: of our
own images there is no public registry). */}}
{{- define "visionloop.image" -}}
{{- $registry := .image.registry | default .root.Values.global.imageRegistry | default .registry -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .image.repository | default .repository -}}
:{{ .image.tag | default .root.Chart.AppVersion -}}
{{- with .image.digest }}@{{ . }}{{ end -}}
{{- end -}}
