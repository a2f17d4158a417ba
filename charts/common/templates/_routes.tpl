{{/* Ways in from outside of the cluster. Each takes root, kind/port and the values of that way; a
route may lead in what begins with `path`, and nothing else.

All that the API server would fill into lists is written out: Argo CD sees it as a difference
otherwise, and never comes to rest. */}}
{{- define "visionloop.gatewayRoute" -}}
{{- $name := include "visionloop.fullname" .root }}
apiVersion: gateway.networking.k8s.io/v1
kind: {{ .kind }}
metadata:
  name: {{ $name }}{{ .suffix }}
  labels:
    {{- include "visionloop.labels" .root | nindent 4 }}
  {{- with .route.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  parentRefs:
    {{- range .route.parentRefs }}
    - {{- toYaml (merge (deepCopy .) (dict "group" "gateway.networking.k8s.io" "kind" "Gateway")) | nindent 6 }}
    {{- end }}
  {{- with .route.hostnames }}
  hostnames:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    - backendRefs:
        - group: ""
          kind: Service
          name: {{ $name }}
          port: {{ .port }}
          weight: 1
      {{- with .path }}
      matches:
        - path: {type: PathPrefix, value: {{ . }}}
      {{- end }}
      {{- with .route.timeouts }}
      {{- if or .request .backendRequest }}
      timeouts:
        {{- with .request }}
        request: {{ . }}
        {{- end }}
        {{- with .backendRequest }}
        backendRequest: {{ . }}
        {{- end }}
      {{- end }}
      {{- end }}
{{- end -}}

{{- define "visionloop.ingress" -}}
{{- $name := include "visionloop.fullname" .root }}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ $name }}
  labels:
    {{- include "visionloop.labels" .root | nindent 4 }}
  {{- with .ingress.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .ingress.className }}
  ingressClassName: {{ . }}
  {{- end }}
  {{- with .ingress.tlsSecret }}
  tls:
    - secretName: {{ . }}
      hosts:
        {{- toYaml $.ingress.hosts | nindent 8 }}
  {{- end }}
  rules:
    {{- range .ingress.hosts }}
    - host: {{ . | quote }}
      http:
        paths:
          - path: /
            pathType: Prefix
            backend:
              service:
                name: {{ $name }}
                port:
                  name: {{ $.port }}
    {{- end }}
{{- end -}}

{{/* How a Gateway speaks to a Service with TLS: without it most speak plain, and get no answer. */}}
{{- define "visionloop.backendTLSPolicy" -}}
{{- if .Values.tls.gatewayCaConfigMap }}
{{- $name := include "visionloop.fullname" . }}
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata:
  name: {{ $name }}
  labels:
    {{- include "visionloop.labels" . | nindent 4 }}
spec:
  targetRefs:
    - group: ""
      kind: Service
      name: {{ $name }}
  validation:
    hostname: {{ $name }}.{{ .Release.Namespace }}.svc
    caCertificateRefs:
      - group: ""
        kind: ConfigMap
        name: {{ .Values.tls.gatewayCaConfigMap }}
{{- end }}
{{- end -}}
