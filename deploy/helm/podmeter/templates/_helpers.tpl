{{- define "podmeter.name" -}}
{{- if contains "podmeter" .Release.Name -}}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{- else -}}{{ printf "%s-podmeter" (.Release.Name | trunc 43) }}{{- end -}}
{{- end }}

{{- define "podmeter.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "podmeter.name" .) -}}
{{- end }}

{{- define "podmeter.selector" -}}
app.kubernetes.io/name: podmeter
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "podmeter.labels" -}}
{{ include "podmeter.selector" . }}
app.kubernetes.io/part-of: podmeter
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "podmeter.adapter.name" -}}
{{- printf "%s-adapter" (include "podmeter.name" .) -}}
{{- end }}

{{- define "podmeter.adapter.selector" -}}
app.kubernetes.io/name: podmeter-adapter
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "podmeter.adapter.labels" -}}
{{ include "podmeter.adapter.selector" . }}
app.kubernetes.io/part-of: podmeter
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What the kubelet's cAdvisor says under the same name. */}}
{{- define "podmeter.cadvisor" -}}
container_(cpu_(usage_seconds|cfs_periods|cfs_throttled_periods|cfs_throttled_seconds)_total|spec_(cpu_(period|quota|shares)|memory_(swap_|reservation_)?limit_bytes)|memory_(usage_bytes|working_set_bytes|max_usage_bytes|rss|cache|mapped_file|total_(in)?active_file_bytes|swap|failcnt|failures_total)|oom_events_total|pressure_(cpu|memory|io)_(waiting|stalled)_seconds_total|fs_(reads|writes)(_bytes)?_total)
{{- end }}
