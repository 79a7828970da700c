{{- define "shop.selector" -}}
app: {{ .Release.Name }}
{{- end -}}
