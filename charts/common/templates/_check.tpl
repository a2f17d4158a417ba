{{/* Fails once, with every reason why the values cannot work. Takes root and problems (lines). */}}
{{- define "visionloop.check" -}}
{{- $problems := trim .problems -}}
{{- if $problems -}}
{{- fail (printf "\n\nThe values of %s cannot work:\n%s\n" .root.Chart.Name $problems) -}}
{{- end -}}
{{- end -}}

{{/* What is wrong in any chart. Takes root and longest (characters of a name that still fit). */}}
{{- define "visionloop.commonProblems" -}}
{{- $url := .root.Values.global.store.url }}
{{- if not (regexMatch "^s3://[A-Za-z0-9]" $url) }}
- global.store.url is {{ $url | quote }}; name the object store as s3://bucket/prefix.
{{- end }}
{{- $name := include "visionloop.fullname" .root }}
{{- if gt (len $name) (int .longest) }}
- the name {{ $name }} has {{ len $name }} characters and {{ .longest }} fit; choose a shorter release name, or fullnameOverride.
{{- end }}
{{- end -}}
