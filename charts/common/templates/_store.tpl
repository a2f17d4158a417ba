{{/* The object store. Where no secret is named, boto3 finds the pod's identity by itself (IRSA, EKS
Pod Identity, an instance's role), and no key is anywhere in the cluster. */}}
{{- define "visionloop.storeSecret" -}}
{{- .Values.storeSecret | default .Values.global.store.existingSecret -}}
{{- end -}}

{{- define "visionloop.storeEnv" -}}
{{- $store := .Values.global.store -}}
- name: VISIONLOOP_STORE # so that `kubectl exec` finds it, too: doctor, models list
  value: {{ $store.url | quote }}
{{- with $store.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with $store.region }}
- name: AWS_REGION
  value: {{ . | quote }}
- name: AWS_DEFAULT_REGION # boto3 reads this one, other SDKs the one above
  value: {{ . | quote }}
{{- end }}
{{- if $store.caBundleConfigMap }}
- name: AWS_CA_BUNDLE
  value: /etc/visionloop/store-ca/ca.crt
{{- end }}
{{- with include "visionloop.storeSecret" . }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: AWS_ACCESS_KEY_ID
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: AWS_SECRET_ACCESS_KEY
{{- end }}
{{- end -}}

{{- define "visionloop.storeMounts" -}}
{{- if .Values.global.store.caBundleConfigMap }}
- name: store-ca
  mountPath: /etc/visionloop/store-ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "visionloop.storeVolumes" -}}
{{- with .Values.global.store.caBundleConfigMap }}
- name: store-ca
  configMap:
    name: {{ . }}
{{- end }}
{{- end -}}

{{/* The port that the store listens on, from its endpoint; S3 itself is at 443. */}}
{{- define "visionloop.storePort" -}}
{{- include "visionloop.portOf" (.Values.global.store.endpoint | default "https://s3") -}}
{{- end -}}

{{/* The port of an address. Takes the address. */}}
{{- define "visionloop.portOf" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (ternary "80" "443" (eq $url.scheme "http")) -}}
{{- end -}}
