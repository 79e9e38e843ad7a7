{{/* The watcher: the one container that holds the runtime's socket. It shares one directory with the daemon, which reads it. */}}

{{- define "larder.watchSocket" -}}
{{- $sockets := dict
    "k3s" "/run/k3s/containerd/containerd.sock"
    "rke2" "/run/k3s/containerd/containerd.sock"
    "crio" "/run/crio/crio.sock" -}}
{{- .Values.runtime.watch.socket | default (get $sockets .Values.runtime.preset) | default "/run/containerd/containerd.sock" -}}
{{- end -}}

{{/* containerd's content store on the node. CRI-O has none. */}}
{{- define "larder.contentDir" -}}
{{- $dirs := dict
    "k3s" "/var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content"
    "rke2" "/var/lib/rancher/rke2/agent/containerd/io.containerd.content.v1.content" -}}
{{- if ne .Values.runtime.preset "crio" -}}
{{- .Values.runtime.watch.content | default (get $dirs .Values.runtime.preset) | default "/var/lib/containerd/io.containerd.content.v1.content" -}}
{{- end -}}
{{- end -}}

{{- define "larder.watchContainer" -}}
- name: watch
  image: {{ include "larder.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - runtime
    - --socket={{ include "larder.watchSocket" . }}
    - --file=/run/larder-runtime/runtime.json
    - --log-json
  securityContext:
    # The socket belongs to root. larder itself gives up all sockets but AF_UNIX, which no profile of a pod can say.
    {{- include "larder.runtimeSecurity" . | nindent 4 }}
  resources:
    {{- toYaml .Values.runtime.watch.resources | nindent 4 }}
  volumeMounts:
    # The directory, because a runtime that restarts makes a new socket. What is mounted below it on the node, such as
    # containers' root file systems, comes and goes here as there.
    - name: runtime-socket
      mountPath: {{ include "larder.watchSocket" . | dir }}
      readOnly: true
      mountPropagation: HostToContainer
    - name: runtime-report
      mountPath: /run/larder-runtime
{{- end -}}

{{- define "larder.watchVolumes" -}}
- name: runtime-socket
  hostPath:
    path: {{ include "larder.watchSocket" . | dir }}
    type: DirectoryOrCreate
{{- with include "larder.contentDir" . }}
- name: runtime-content
  hostPath:
    path: {{ . }}
    type: DirectoryOrCreate
{{- end }}
# In memory: it is written every half minute, and worth nothing after a restart.
- name: runtime-report
  emptyDir:
    medium: Memory
    sizeLimit: 48Mi
{{- end -}}
