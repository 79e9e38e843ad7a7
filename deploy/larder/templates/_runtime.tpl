{{/* What `larder install` and `larder uninstall` are given, and the directories of the node that they see. */}}

{{- define "larder.runtimeArgs" -}}
{{- if .Values.runtime.remove }}
- uninstall
- --containerd-certs-dir={{ include "larder.certsDir" . }}
{{- else }}
- install
- --containerd-certs-dir={{ include "larder.certsDir" . }}
- --address=http://127.0.0.1:{{ .Values.registry.port }}
{{- range .Values.runtime.registries }}
- --registry={{ . }}
{{- end }}
{{- end }}
{{- with .Values.runtime.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "larder.runtimeDir" -}}
{{- include "larder.certsDir" . | dir -}}
{{- end -}}

{{- define "larder.runtimeMounts" -}}
- name: runtime
  mountPath: {{ include "larder.runtimeDir" . }}
{{- end -}}

{{- define "larder.runtimeVolumes" -}}
- name: runtime
  hostPath:
    path: {{ include "larder.runtimeDir" . }}
    type: DirectoryOrCreate
{{- end -}}
