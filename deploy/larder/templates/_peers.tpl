{{/* The Secrets of the peers. */}}

{{- define "larder.peerSecret" -}}
{{- if eq .Values.peers.tls.source "secret" -}}
{{- .Values.peers.tls.secretName -}}
{{- else -}}
{{- include "larder.fullname" . }}-peers
{{- end -}}
{{- end -}}

{{- define "larder.keySecret" -}}
{{- .Values.peers.keySecretName | default (printf "%s-key" (include "larder.fullname" .)) -}}
{{- end -}}
