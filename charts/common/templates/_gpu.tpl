{{/* What a GPU adds to a pod: by a device plugin (whole cards, MIG slices and time-sliced ones are
resources of different names), or by dynamic resource allocation. Takes the root context. */}}
{{- define "visionloop.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- $gpu := .Values.gpu -}}
{{- if eq $gpu.mode "device-plugin" -}}
{{- $_ := set $resources "limits" (merge (dict $gpu.resourceName (int $gpu.count)) ($resources.limits | default dict)) -}}
{{- else if eq $gpu.mode "dra" -}}
{{- $_ := set $resources "claims" (list (dict "name" "gpu")) -}}
{{- end -}}
{{- with $resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "visionloop.gpuPod" -}}
{{- with .Values.gpu.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if eq .Values.gpu.mode "dra" }}
resourceClaims:
  - name: gpu
    resourceClaimTemplateName: {{ include "visionloop.claimTemplateName" . }}
{{- end }}
{{- end -}}

{{- define "visionloop.resourceClaimTemplate" -}}
{{- if eq .Values.gpu.mode "dra" }}
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  name: {{ include "visionloop.claimTemplateName" . }}
  labels:
    {{- include "visionloop.labels" . | nindent 4 }}
spec:
  {{- include "visionloop.claimSpec" . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A template of claims never changes, so another request is another template: under one name an
upgrade with other values would fail. */}}
{{- define "visionloop.claimTemplateName" -}}
{{ include "visionloop.fullname" . }}-gpu-{{ include "visionloop.claimSpec" . | sha256sum | trunc 8 }}
{{- end -}}

{{- define "visionloop.claimSpec" -}}
spec:
  devices:
    requests:
      - name: gpu
        exactly:
          deviceClassName: {{ .Values.gpu.deviceClassName }}
          allocationMode: ExactCount
          count: {{ int .Values.gpu.count }}
          {{- with .Values.gpu.selectors }}
          selectors:
            {{- range . }}
            - cel:
                expression: {{ . | quote }}
            {{- end }}
          {{- end }}
{{- end -}}

{{- define "visionloop.gpuProblems" -}}
{{- if and (eq .Values.gpu.mode "dra") (not (semverCompare ">=1.34.0-0" .Capabilities.KubeVersion.Version)) }}
- gpu.mode is dra, which needs Kubernetes 1.34 (resource.k8s.io/v1); this is {{ .Capabilities.KubeVersion.Version }}. Use gpu.mode=device-plugin.
{{- end }}
{{- end -}}
