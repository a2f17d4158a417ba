{{/* Why these values cannot work together; each line says what to change. */}}
{{- define "inference.problems" -}}
{{- include "visionloop.commonProblems" (dict "root" . "longest" 52) }}
{{- include "visionloop.gpuProblems" . }}
{{- include "visionloop.tlsProblems" . }}
{{- $known := or .Values.auth.existingSecret .Values.tls.clientCaSecret }}
{{- if and (eq .Values.tls.mode "off") (not .Values.insecure) }}
- tls.mode is off: requests would come in the clear. Set tls.mode, or insecure=true where a mesh or the NetworkPolicy protects the service.
{{- end }}
{{- if and (not $known) (not .Values.insecure) }}
- whoever reaches the service may use it. Name auth.existingSecret (tokens) or tls.clientCaSecret (mTLS), or set insecure=true.
{{- end }}
{{- $scraped := and .Values.global.monitoring.enabled .Values.monitoring.podMonitor.enabled }}
{{- if and .Values.insecure $scraped .Values.networkPolicy.enabled (not .Values.networkPolicy.metricsFrom) }}
- insecure=true takes images on the port of the metrics, too, so it is not open to the cluster; say where Prometheus is: networkPolicy.metricsFrom=[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}].
{{- end }}
{{- if and .Values.tls.clientCaSecret (eq .Values.tls.mode "off") }}
- tls.clientCaSecret needs tls.mode secret or cert-manager: clients are asked for certificates over TLS only.
{{- end }}
{{- with .Values.autoscaling }}
{{- $byRequests := has .mode (list "hpa" "keda") }}
{{- if and (or $byRequests (eq .mode "cpu")) (gt (int .min) (int .max)) }}
- autoscaling.min {{ .min }} is above autoscaling.max {{ .max }}.
{{- end }}
{{- if and (eq .mode "keda") (not .prometheus) }}
- autoscaling.mode is keda, but autoscaling.prometheus gives no address, as http://prometheus.monitoring:9090.
{{- end }}
{{- if and (eq .mode "cpu") (ne $.Values.gpu.mode "none") }}
- autoscaling.mode is cpu, and gpu.mode is {{ $.Values.gpu.mode }}: the CPU's use says nothing of a GPU's. Use keda or hpa.
{{- end }}
{{- if and (eq .mode "cpu") (not (dig "requests" "cpu" "" $.Values.resources)) }}
- autoscaling.mode is cpu, which measures against resources.requests.cpu, and there is none.
{{- end }}
{{- if and $byRequests (not $scraped) }}
- autoscaling.mode is {{ .mode }}, which needs the pods' metrics: set global.monitoring.enabled=true and monitoring.podMonitor.enabled=true.
{{- end }}
{{- end }}
{{- if and .Values.grpcRoute.enabled (not .Values.grpcRoute.parentRefs) }}
- grpcRoute.enabled, but grpcRoute.parentRefs names no Gateway.
{{- end }}
{{- with .Values.httpRoute }}
{{- if and .enabled (not .parentRefs) }}
- httpRoute.enabled, but httpRoute.parentRefs names no Gateway.
{{- end }}
{{- if and .enabled (eq $.Values.tls.mode "off") (ne $.Values.service.type "ClusterIP") }}
- httpRoute leads to the HTTP port, which a Service of type {{ $.Values.service.type }} does not open, for metrics are on it. Set service.type=ClusterIP, or tls.mode.
{{- end }}
{{- $policy := $.Values.networkPolicy }}
{{- if and .enabled (eq $.Values.tls.mode "off") $policy.enabled (not $policy.from) }}
- httpRoute without TLS leads to the port of the metrics, which would be open to every namespace: say who may call, the Gateway's pods among them, as networkPolicy.from=[{podSelector: {}}, {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: gateways}}}], or set tls.mode.
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
- ingress.enabled, but ingress.hosts names no host.
{{- end }}
{{- if and .Values.test.enabled .Values.test.tokenSecret (eq .Values.tls.mode "off") (not .Values.insecure) }}
- test.tokenSecret would go over the network in the clear; set tls.mode.
{{- end }}
{{- if and .Values.toolbox.enabled .Values.toolbox.storeSecret .Values.storeSecret (eq .Values.toolbox.storeSecret .Values.storeSecret) }}
- toolbox.storeSecret is storeSecret, whose keys read models/ and cannot move aliases; name training's.
{{- end }}
{{- end -}}
