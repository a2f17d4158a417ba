{{/* Objects that are the same in every chart. */}}
{{- define "visionloop.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "visionloop.serviceAccountName" . }}
  labels:
    {{- include "visionloop.labels" . | nindent 4 }}
  {{- with .Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end -}}

{{/* maxUnavailable only: a minAvailable as high as the replicas would block every drain. */}}
{{- define "visionloop.podDisruptionBudget" -}}
{{- if .Values.podDisruptionBudget.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "visionloop.fullname" . }}
  labels:
    {{- include "visionloop.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ .Values.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "visionloop.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* A certificate of cert-manager's, for the names of the chart's Services and those given. */}}
{{- define "visionloop.certificate" -}}
{{- if eq .Values.tls.mode "cert-manager" }}
{{- $name := include "visionloop.fullname" . }}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ $name }}
  labels:
    {{- include "visionloop.labels" . | nindent 4 }}
spec:
  secretName: {{ include "visionloop.tlsSecret" . }}
  issuerRef:
    {{- toYaml .Values.tls.issuerRef | nindent 4 }}
  privateKey:
    algorithm: ECDSA
    size: 256
    rotationPolicy: Always
  usages: [digital signature, server auth]
  dnsNames:
    {{- range $service := list $name (printf "%s-headless" $name) }}
    - {{ $service }}
    - {{ $service }}.{{ $.Release.Namespace }}
    - {{ $service }}.{{ $.Release.Namespace }}.svc
    - {{ $service }}.{{ $.Release.Namespace }}.svc.cluster.local
    {{- end }}
    {{- with .Values.tls.dnsNames }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "visionloop.tlsSecret" -}}
{{- if eq .Values.tls.mode "cert-manager" -}}
{{ include "visionloop.fullname" . }}-tls
{{- else -}}
{{ .Values.tls.existingSecret }}
{{- end -}}
{{- end -}}

{{- define "visionloop.tlsProblems" -}}
{{- if and .Values.tls.gatewayCaConfigMap (eq .Values.tls.mode "off") }}
- tls.gatewayCaConfigMap needs tls.mode secret or cert-manager: there is no certificate to check.
{{- end }}
{{- if and (eq .Values.tls.mode "secret") (not .Values.tls.existingSecret) }}
- tls.mode is secret, but tls.existingSecret names none; it holds tls.crt and tls.key.
{{- end }}
{{- if and (eq .Values.tls.mode "cert-manager") (not .Values.tls.issuerRef.name) }}
- tls.mode is cert-manager, but tls.issuerRef.name names no issuer.
{{- end }}
{{- end -}}

{{/* Secrets that external-secrets fetches; the values name where, never what. Its defaults are written
out, so that Argo CD sees no difference. */}}
{{- define "visionloop.externalSecrets" -}}
{{- range $name, $secret := .Values.externalSecrets }}
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata:
  name: {{ $name }}
  labels:
    {{- include "visionloop.labels" $ | nindent 4 }}
spec:
  refreshInterval: {{ $secret.refreshInterval | default "1h" }}
  secretStoreRef:
    name: {{ $secret.storeRef.name }}
    kind: {{ $secret.storeRef.kind | default "SecretStore" }}
  target:
    name: {{ $name }}
    creationPolicy: Owner
    deletionPolicy: Retain
  data:
    {{- range $key, $remote := $secret.data }}
    - secretKey: {{ $key }}
      remoteRef:
        key: {{ $remote.key }}
        conversionStrategy: Default
        decodingStrategy: None
        metadataPolicy: None
        {{- with $remote.property }}
        property: {{ . }}
        {{- end }}
    {{- end }}
{{- end }}
{{- end -}}

{{/* Objects of the user's own, with Helm's values filled in. */}}
{{- define "visionloop.extraObjects" -}}
{{- range .Values.extraObjects }}
---
{{ tpl (kindIs "string" . | ternary . (toYaml .)) $ }}
{{- end }}
{{- end -}}
