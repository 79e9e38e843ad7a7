{{/* The arguments of `larder install` and `larder uninstall`, and the node's directories that are mounted under /host. */}}

{{- define "larder.certsDir" -}}
{{- $dirs := dict
    "kubeadm" "/etc/containerd/certs.d"
    "eks" "/etc/containerd/certs.d"
    "gke" "/etc/containerd/hosts.d"
    "talos" "/etc/cri/conf.d/hosts"
    "k3s" "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"
    "rke2" "/var/lib/rancher/rke2/agent/etc/containerd/certs.d" -}}
{{- .Values.runtime.certsDir | default (get $dirs .Values.runtime.preset) -}}
{{- end -}}

{{/* The arguments that install and uninstall share. */}}
{{- define "larder.runtimePlace" -}}
- --node-root=/host
- --preset={{ .Values.runtime.preset }}
{{- with .Values.runtime.certsDir }}
- --containerd-certs-dir={{ . }}
{{- end }}
{{- end -}}

{{- define "larder.runtimeArgs" -}}
{{- if .Values.runtime.remove -}}
- uninstall
{{ include "larder.runtimePlace" . }}
{{- else -}}
- install
{{ include "larder.runtimePlace" . }}
# The node follows these values: larder removes its lines for registries that they no longer name.
- --exact
- --address=http://127.0.0.1:{{ .Values.registry.port }}
{{- range .Values.runtime.registries }}
- --registry={{ . }}
{{- end }}
{{- with .Values.runtime.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "larder.runtimeSecurity" -}}
# The runtime's directory belongs to root.
runAsNonRoot: false
runAsUser: 0
runAsGroup: 0
{{ include "larder.nodeSecurity" . }}
{{- end -}}

{{/* For doctor and explain in larder's own container, where the runtime's directories are mounted read-only. */}}
{{- define "larder.runtimeSeen" -}}
{{- $certs := include "larder.certsDir" . -}}
{{- $configs := dict
    "kubeadm" "/etc/containerd/config.toml"
    "eks" "/etc/containerd/config.toml"
    "gke" "/etc/containerd/config.toml"
    "talos" "/etc/cri/conf.d/cri.toml"
    "k3s" "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"
    "rke2" "/var/lib/rancher/rke2/agent/etc/containerd/config.toml" -}}
{{- $config := get $configs .Values.runtime.preset -}}
- name: LARDER_NODE_ROOT
  value: /host
- name: LARDER_CONTAINERD_CERTS_DIR
  value: {{ $certs }}
{{- if eq (dir $config) (dir $certs) }}
- name: LARDER_CONTAINERD_CONFIG
  value: {{ $config }}
{{- end }}
{{- end -}}

{{/* For containerd, the directory above certs.d is mounted: install may create certs.d, and uninstall then removes it. */}}
{{- define "larder.runtimeMounts" -}}
{{- if eq .Values.runtime.preset "crio" -}}
- name: runtime
  mountPath: /host/etc/containers
- name: crio
  mountPath: /host/etc/crio
  readOnly: true
{{- else -}}
- name: runtime
  mountPath: /host{{ include "larder.certsDir" . | dir }}
{{- end -}}
{{- end -}}

{{- define "larder.runtimeVolumes" -}}
{{- if eq .Values.runtime.preset "crio" -}}
- name: runtime
  hostPath:
    path: /etc/containers
    type: DirectoryOrCreate
- name: crio
  hostPath:
    path: /etc/crio
    type: DirectoryOrCreate
{{- else -}}
- name: runtime
  hostPath:
    path: {{ include "larder.certsDir" . | dir }}
    type: DirectoryOrCreate
{{- end -}}
{{- end -}}
