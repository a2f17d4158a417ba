{{/* Why these values cannot work together; each line says what to change. */}}
{{- define "training.problems" -}}
{{- include "visionloop.commonProblems" (dict "root" . "longest" 40) }}
{{- include "visionloop.gpuProblems" . }}
{{- if not .Values.dataset }}
- dataset names none; it is what the runs learn from.
{{- end }}
{{- if and (eq .Values.lane "auto") (not .Values.onlyIfNeeded) }}
- lane is auto, which asks the triggers; set onlyIfNeeded=true.
{{- end }}
{{- if and .Values.again .Values.onlyIfNeeded }}
- again trains without a reason and onlyIfNeeded wants one; choose one of them.
{{- end }}
{{- $each := int (include "training.processes" .) }}
{{- $all := mul $each .Values.nodes | int }}
{{- $slices := dig "fit" "slices" 1 .Values.config | int }}
{{- $powers := list 1 2 4 8 16 32 64 128 256 512 1024 }}
{{- if not (has $all $powers) }}
- nodes {{ .Values.nodes }} × {{ $each }} processes are {{ $all }}; their number must be a power of two.
{{- else if mod $slices $all }}
- config.fit.slices is {{ $slices }}, and {{ $all }} processes share a batch; make it {{ $all }} or a multiple, a power of two.
{{- end }}
{{- end -}}

{{- define "training.processes" -}}
{{ ternary .Values.processesPerNode .Values.gpu.count (eq .Values.gpu.mode "none") }}
{{- end -}}
