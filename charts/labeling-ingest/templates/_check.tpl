{{/* Why these values cannot work together; each line says what to change. */}}
{{- define "labeling.problems" -}}
{{- include "visionloop.commonProblems" (dict "root" . "longest" (ternary 45 52 .Values.backup.enabled)) }}
{{- include "visionloop.tlsProblems" . }}
{{- if not .Values.database.existingSecret }}
- database.existingSecret names no Secret; it holds postgresql://user:password@host/name under the key uri.
{{- end }}
{{- if and (eq .Values.tls.mode "off") (not .Values.insecure) }}
- tls.mode is off: passwords would come in the clear. Set tls.mode, or insecure=true behind a gateway that ends TLS.
{{- end }}
{{- if and (not .Values.accounts) (not .Values.insecure) }}
- accounts is off: whoever reaches the service is its administrator. Set accounts=true, or insecure=true.
{{- end }}
{{- if and .Values.inference.tokenSecret (not .Values.inference.caSecret) }}
- inference.tokenSecret needs inference.caSecret: the token would go over the network in the clear.
{{- end }}
{{- with .Values.autoscaling }}
{{- if and .enabled (gt (int .min) (int .max)) }}
- autoscaling.min {{ .min }} is above autoscaling.max {{ .max }}.
{{- end }}
{{- if and .enabled (not (dig "requests" "cpu" "" $.Values.resources)) }}
- autoscaling.enabled needs resources.requests.cpu, which it measures against.
{{- end }}
{{- end }}
{{- $pods := ternary .Values.autoscaling.max .Values.replicas .Values.autoscaling.enabled | int }}
{{- $each := index .Values.settings "database-connections" | default 24 | int }}
{{- if gt (mul $each (add $pods 1)) (int .Values.database.maxConnections) }}
- {{ $pods }} pods and one more during a rollout take {{ mul $each (add $pods 1) }} connections ({{ $each }} each), and database.maxConnections is {{ .Values.database.maxConnections }}. Raise it in Postgres and here, or lower settings.database-connections.
{{- end }}
{{- range $way := list "httpRoute" "grpcRoute" }}
{{- $route := get $.Values $way }}
{{- if and $route.enabled (not $route.parentRefs) }}
- {{ $way }}.enabled, but {{ $way }}.parentRefs names no Gateway.
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
- ingress.enabled, but ingress.hosts names no host.
{{- end }}
{{- if and .Values.database.policyFrom (not .Values.database.policyFor) }}
- database.policyFrom without database.policyFor: there is no policy for it to stand in.
{{- end }}
{{- if and .Values.database.policyFor (not .Values.networkPolicy.enabled) }}
- database.policyFor makes a NetworkPolicy, and networkPolicy.enabled is false.
{{- end }}
{{- if and .Values.imports.networks (not .Values.imports.urls) }}
- imports.networks without imports.urls=true: the NetworkPolicy would keep imports from them.
{{- end }}
{{- with .Values.backup }}
{{- if .enabled }}
{{- if not .target }}
- backup.enabled, but backup.target names no bucket, as s3://vision-backup/production.
{{- end }}
{{- $store := $.Values.global.store }}
{{- $same := or (not .endpoint) (eq .endpoint $store.endpoint) }}
{{- if and .target $same (hasPrefix (printf "%s/" (trimSuffix "/" $store.url)) (printf "%s/" .target)) }}
- backup.target {{ .target }} lies in the store {{ $store.url }}: it would be copied into itself, and who loses the one loses the other. Name another bucket.
{{- end }}
{{- $own := include "visionloop.storeSecret" $ }}
{{- if and .storeSecret (eq .storeSecret $own) }}
- backup.storeSecret is the service's own, {{ $own }}: what it may delete is no backup. Give the target a key of its own.
{{- end }}
{{- if and (not .storeSecret) $own }}
- backup.storeSecret names no Secret; it holds the keys of the target.
{{- end }}
{{- if and (not .storeSecret) (not $own) (not .serviceAccountName) }}
- backup.serviceAccountName names none: without keys it is the identity that writes backups, and the service's own must not.
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
