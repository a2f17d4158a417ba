{{- define "training.args" -}}
- --dataset={{ .Values.dataset }}
- --model={{ .Values.model | default .Values.dataset }}
- --snapshot={{ .Values.snapshot }}
{{- with .Values.preset }}
- --preset={{ . }}
{{- end }}
{{- if .Values.config }}
- --config=/etc/visionloop/training/config.yaml
{{- end }}
- --cache=/var/cache/visionloop
- --checkpoint-seconds={{ int64 .Values.checkpointSeconds }}
- --who={{ .Release.Namespace }}/{{ include "visionloop.fullname" . }}
{{- if not .Values.promote }}
- --no-promote
{{- end }}
{{- if .Values.onlyIfNeeded }}
- --if-needed
{{- end }}
- --lane={{ .Values.lane }}
{{- if .Values.again }}
- --again
{{- end }}
- --nodes={{ .Values.nodes }}
- --processes-per-node={{ include "training.processes" . }}
- --metrics-port=8004
- "--metrics-host={{ include "visionloop.host" . }}"
- --insecure # of metrics alone; the NetworkPolicy says who reads them
{{- end -}}
