{{/* Where every program may go: names, and the store. */}}
{{- define "visionloop.egressCommon" -}}
- ports: # names
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    {{- if .Values.global.openshift }}
    - {port: 5353, protocol: UDP}
    - {port: 5353, protocol: TCP}
    {{- end }}
- ports: # the store{{ if not .Values.global.store.endpoint }}, and what gives out credentials for it{{ end }}
    - {port: {{ include "visionloop.storePort" . }}, protocol: TCP}
  {{- with .Values.networkPolicy.storePeers }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Who may call. Takes root, from (a list of peers) and ports (numbers). */}}
{{- define "visionloop.ingressRule" -}}
- ports:
    {{- range .ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with .from }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
