{{/* Prometheus and Grafana. Everything here hangs on global.monitoring.enabled, a value and never
`.Capabilities`: GitOps tools render without a cluster and would silently drop it. */}}
{{- define "visionloop.monitoringLabels" -}}
{{ toYaml (merge (dict) .Values.global.monitoring.labels (include "visionloop.labels" . | fromYaml)) }}
{{- end -}}

{{/* Selects the series of this chart's pods in PromQL; prometheus-operator names the job of a
PodMonitor NAMESPACE/NAME. */}}
{{- define "visionloop.job" -}}
{{ .Release.Namespace }}/{{ include "visionloop.fullname" . }}
{{- end -}}
{{- define "visionloop.series" -}}
job="{{ include "visionloop.job" . }}"
{{- end -}}

{{/* True where nobody is served: no pod can be scraped, or those that can are all not ready, which kube-state-metrics
tells, and one was within the week (before the first promotion inference waits, and that wakes nobody). */}}
{{- define "visionloop.nobodyServes" -}}
{{- $deployment := printf `namespace="%s",deployment="%s"` .Release.Namespace (include "visionloop.fullname" .) -}}
(count(up{ {{- include "visionloop.series" . -}} } == 1) or vector(0)) == 0
or max(kube_deployment_status_replicas_available{ {{- $deployment -}} }) == 0
  and max(max_over_time(kube_deployment_status_replicas_available{ {{- $deployment -}} }[1w])) > 0
{{- end -}}

{{/* The groups of rules/*.yaml. Each file is a plain Prometheus rule file whose values Helm fills in
first (Prometheus' own templates stand in backquotes there, as {{`{{ $value }}`}}). Rules can be switched off by name. Each alert
says whose it is (namespace, job), whatever its expression leaves of that: else those of two releases are one to
Alertmanager, and AlertmanagerConfigs, which route by namespace, never see it. And it
gets the address of its runbook, or, where nobody said where they are published, its name in our
repository: a link that leads nowhere costs the one who is paged at night a minute. */}}
{{- define "visionloop.ruleGroups" -}}
{{- $rules := .Values.monitoring.rules -}}
{{- $base := .Values.global.monitoring.runbookBase -}}
{{- $groups := list -}}
{{- $owner := dict "namespace" .Release.Namespace "job" (include "visionloop.job" .) -}}
{{- range $path, $_ := .Files.Glob "rules/*.yaml" -}}
{{- $file := tpl ($.Files.Get $path) $ | fromYaml -}}
{{- if $file.Error }}{{ fail (printf "%s is no YAML: %s" $path $file.Error) }}{{ end -}}
{{- range $group := $file.groups -}}
{{- $kept := list -}}
{{- range $rule := $group.rules -}}
{{- if not (has ($rule.alert | default $rule.record) $rules.disabled) -}}
{{- if $rule.alert -}}
{{- $page := dict "runbook" (printf "docs/runbooks/%s.md" $rule.alert) -}}
{{- if $base }}{{ $page = dict "runbook_url" (printf "%s/%s.md" (trimSuffix "/" $base) $rule.alert) }}{{ end -}}
{{- $annotations := merge ($rule.annotations | default dict) $page -}}
{{- $labels := merge (deepCopy $rules.labels) ($rule.labels | default dict) $owner -}}
{{- $rule = merge (dict "annotations" $annotations "labels" $labels) $rule -}}
{{- end -}}
{{- $kept = append $kept $rule -}}
{{- end -}}
{{- end -}}
{{- if $kept -}}
{{- $groups = append $groups (merge (dict "rules" $kept) $group) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $groups }}{{ toYaml $groups }}{{ end -}}
{{- end -}}

{{- define "visionloop.prometheusRule" -}}
{{- $groups := include "visionloop.ruleGroups" . -}}
{{- if and .Values.global.monitoring.enabled .Values.monitoring.rules.enabled $groups }}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ include "visionloop.fullname" . }}
  labels:
    {{- include "visionloop.monitoringLabels" . | nindent 4 }}
spec:
  groups:
    {{- $groups | nindent 4 }}
{{- end }}
{{- end -}}

{{/* One ConfigMap for each dashboards/*.json, as Grafana's sidecar looks for them. */}}
{{- define "visionloop.dashboards" -}}
{{- if and .Values.global.monitoring.enabled .Values.monitoring.dashboards.enabled }}
{{- range $path, $_ := .Files.Glob "dashboards/*.json" }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "visionloop.fullname" $ }}-dashboard-{{ trimSuffix ".json" (base $path) }}
  labels:
    {{- toYaml (merge (dict) $.Values.monitoring.dashboards.labels (include "visionloop.labels" $ | fromYaml)) | nindent 4 }}
  {{- with $.Values.monitoring.dashboards.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
data:
  {{ base $path }}: |-
    {{- $.Files.Get $path | trim | nindent 4 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* For NOTES.txt. */}}
{{- define "visionloop.runbookNote" -}}
{{- if and .Values.global.monitoring.enabled (not .Values.global.monitoring.runbookBase) }}

Alerts name their runbook (annotation `runbook`), and have no link to it: publish docs/runbooks where the people
on call can read it, and set global.monitoring.runbookBase to that address.
{{- end }}
{{- end -}}
