{{/* The volume that holds the node tier. */}}

{{- define "larder.storeVolume" -}}
{{- $store := .Values.store -}}
{{- if eq $store.type "hostPath" -}}
hostPath:
  path: {{ $store.hostPath }}
  type: DirectoryOrCreate
{{- else if eq $store.type "emptyDir" -}}
emptyDir:
  {{- with $store.size }}
  sizeLimit: {{ . }}
  {{- else }} {}
  {{- end }}
{{- else if eq $store.type "ephemeral" -}}
ephemeral:
  volumeClaimTemplate:
    spec:
      {{- include "larder.claimSpec" . | nindent 6 }}
{{- else -}}
persistentVolumeClaim:
  claimName: {{ $store.existingClaim | default (printf "%s-store" (include "larder.fullname" .)) }}
{{- end -}}
{{- end -}}

{{- define "larder.claimSpec" -}}
accessModes: [ReadWriteOnce]
{{- with .Values.store.storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .Values.store.size }}
{{- end -}}
