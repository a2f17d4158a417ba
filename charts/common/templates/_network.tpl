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
    {{- with int .Values.networkPolicy.storePort }}
    - {port: {{ . }}, protocol: TCP} # behind the Service: policies see the port of the pod
    {{- end }}
  {{- with .Values.networkPolicy.storePeers }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- if not (include "visionloop.storeSecret" .) }}
- ports: # EKS Pod Identity: its agent on the node gives out this pod's own credentials
    - {port: 80, protocol: TCP}
  to:
    - ipBlock: {cidr: 169.254.170.23/32}
    - ipBlock: {cidr: "fd00:ec2::23/128"}
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
