{{/* Names, labels and decisions that several manifests share. */}}

{{/* Where the holder mounts, and its socket: the daemon's default. The path is the same in the pods and on the node. */}}
{{- define "larder.holdDir" -}}
/run/larder-hold
{{- end -}}

{{/* Whether larder needs the holder's socket: also after lazy mode was switched off, as long as there is a holder. */}}
{{- define "larder.mounts" -}}
{{- or (eq .Values.streaming.mode "lazy") (and (ne .Values.streaming.mode "off") .Values.streaming.hold.enabled) -}}
{{- end -}}

{{- define "larder.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "larder.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "larder.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "larder.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "larder.selector" -}}
app.kubernetes.io/name: {{ include "larder.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "larder.labels" -}}
{{ include "larder.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "larder.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "larder.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "larder.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* The scheduling of pods that run on every node that pulls images. */}}
{{- define "larder.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The security context of containers that use the node's own directories. */}}
{{- define "larder.nodeSecurity" -}}
{{- include "larder.containerSecurity" . }}
{{- with .Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "larder.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Every user of the node may write into an emptyDir's own directory. The directory that larder makes in it is larder's. */}}
{{- define "larder.storePath" -}}
{{- ternary "/var/lib/larder/store" "/var/lib/larder" (eq .Values.store.type "emptyDir") -}}
{{- end -}}

{{/* The configuration file: `config` overrides what this chart sets for pods. */}}
{{- define "larder.config" -}}
{{- $any := "0.0.0.0" -}}
{{- $loopback := "127.0.0.1" -}}
{{- $base := dict
    "registry" (dict "listen" (printf "%s:%v" (ternary $loopback $any .Values.hostNetwork) .Values.registry.port))
    "store" (dict "path" (include "larder.storePath" .))
    "telemetry" (dict "listen" (printf "%s:%v" $loopback .Values.telemetry.port) "log_format" "json") -}}
{{/* The kubelet and the runtime use the node's disk too. larder's default of min_free is for such a disk, and too much
for a volume of its own. */}}
{{- $bounds := ternary (dict "max_size" "40%") (dict "min_free" "5%") (has .Values.store.type (list "hostPath" "emptyDir")) -}}
{{- $_ := set $base "store" (merge (get $base "store") $bounds) -}}
{{- if .Values.runtime.watch.enabled -}}
{{- $_ := set $base "runtime" (dict "file" "/run/larder-runtime/runtime.json" "content" (ternary "/run/larder-content" "off" (ne (include "larder.contentDir" .) ""))) -}}
{{- end -}}
{{- if ne .Values.streaming.mode "off" -}}
{{- $_ := set $base "streaming" (dict "mode" .Values.streaming.mode "directory" .Values.streaming.directory) -}}
{{- end -}}
{{- if .Values.warm.nodeLabels -}}
{{- $_ := set $base "warm" (dict "labels_file" "/run/larder-node/labels") -}}
{{- end -}}
{{- $cluster := dict -}}
{{- if .Values.peers.enabled -}}
{{- $name := printf "%s-peers.%s.svc.%s" (include "larder.fullname" .) .Release.Namespace .Values.clusterDomain -}}
{{- $_ := set $cluster "listen" (printf "%s:%v" $any .Values.peers.port) -}}
{{- $_ := set $cluster "members" (printf "dns:%s:%v" $name .Values.peers.port) -}}
{{- $_ := set $cluster "tls" (dict "ca" "/etc/larder/peers/ca.crt" "cert" "/etc/larder/peers/tls.crt" "key" "/etc/larder/peers/tls.key") -}}
{{- $_ := set $cluster "key" "/etc/larder/cluster-key/key" -}}
{{- end -}}
{{- with .Values.objectStore -}}
{{- if .url -}}
{{- $store := dict "url" .url -}}
{{- with .options -}}{{- $_ := set $store "options" . -}}{{- end -}}
{{- with .maxRate -}}{{- $_ := set $store "max_rate" . -}}{{- end -}}
{{- $_ := set $cluster "object_store" $store -}}
{{- end -}}
{{- end -}}
{{- if $cluster -}}{{- $_ := set $base "cluster" $cluster -}}{{- end -}}
{{- $upstreams := dict -}}
{{- range .Values.credentials -}}
{{- $dir := printf "/etc/larder/credentials/%s" .secretName -}}
{{- $source := dict "docker_config" $dir -}}
{{- if eq .type "basic" -}}
{{- $source = dict "username_file" (printf "%s/username" $dir) "password_file" (printf "%s/password" $dir) -}}
{{- end -}}
{{- $_ := set $upstreams .registry (dict "credentials" $source "access" .access) -}}
{{- end -}}
{{- if $upstreams -}}{{- $_ := set $base "upstreams" $upstreams -}}{{- end -}}
{{- mergeOverwrite $base (deepCopy .Values.config) | toJson -}}
{{- end -}}

{{/* The settings that larder reads only when it starts. The running daemon reloads all others. */}}
{{- define "larder.restartChecksum" -}}
{{- $config := include "larder.config" . | fromJson -}}
{{- $parts := list
    (dig "registry" "listen" "" $config)
    (dig "store" "path" "" $config)
    (dig "telemetry" dict $config)
    (dig "admin" dict $config)
    (dig "cluster" dict $config) -}}
{{- if ne .Values.streaming.mode "off" -}}{{- $parts = append $parts .Values.streaming -}}{{- end -}}
{{- $parts | toJson | sha256sum | trunc 16 -}}
{{- end -}}

{{/* Whether metrics and health are on the pod's own address too. */}}
{{- define "larder.exposes" -}}
{{- if or (not .Values.hostNetwork) .Values.monitoring.podMonitor .Values.monitoring.serviceMonitor -}}true{{- end -}}
{{- end -}}

{{- define "larder.dnsPolicy" -}}
{{- if .Values.dnsPolicy -}}
{{- .Values.dnsPolicy -}}
{{- else if or .Values.peers.enabled .Values.objectStore.url -}}
{{- ternary "ClusterFirstWithHostNet" "ClusterFirst" .Values.hostNetwork -}}
{{- else -}}
Default
{{- end -}}
{{- end -}}
