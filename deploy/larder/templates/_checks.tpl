{{/* Conflicts between values, which the schema cannot express. Each message names the value. */}}

{{- define "larder.checks" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is not set: name the registry and repository of larder's image, such as --set image.repository=registry.example.com/larder (scripts/image builds the image)" -}}
{{- end -}}
{{- if .Values.podSecurityCheck -}}
{{- $namespace := lookup "v1" "Namespace" "" .Release.Namespace | default dict -}}
{{- $level := dig "metadata" "labels" "pod-security.kubernetes.io/enforce" "privileged" $namespace -}}
{{- if ne $level "privileged" -}}
{{- fail (printf "namespace %s has the Pod Security level %s, which lets no pod of larder's in: they use directories of the node (hostPath), a port of the node (hostPort), and a probe with a host. Run: kubectl label namespace %s pod-security.kubernetes.io/enforce=privileged --overwrite" .Release.Namespace $level .Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- $ports := dict (toString .Values.registry.port) "registry.port" -}}
{{- $others := list (list "telemetry.port" .Values.telemetry.port) -}}
{{- if .Values.peers.enabled -}}{{- $others = append $others (list "peers.port" .Values.peers.port) -}}{{- end -}}
{{- range $others -}}
{{- $name := first . -}}
{{- $port := last . | toString -}}
{{- with get $ports $port -}}{{- fail (printf "%s: %s is %s already: choose another port" $name . $port) -}}{{- end -}}
{{- $_ := set $ports $port $name -}}
{{- end -}}
{{- $listen := dig "registry" "listen" "" .Values.config | toString -}}
{{- if and (not .Values.hostNetwork) (regexMatch "^(127\\.|\\[::1\\])" $listen) -}}
{{- fail (printf "config.registry.listen: %s is the pod's own loopback, and a hostPort does not reach it: remove this key, or set hostNetwork" $listen) -}}
{{- end -}}
{{- $registryPort := toString .Values.registry.port -}}
{{- with $listen -}}{{- if ne (regexFind "[0-9]+$" .) $registryPort -}}
{{- fail (printf "config.registry.listen: %s has another port than registry.port, which is %s: set only registry.port" . $registryPort) -}}
{{- end -}}{{- end -}}
{{- $telemetryPort := toString .Values.telemetry.port -}}
{{- $telemetry := dig "telemetry" "listen" "" .Values.config | toString -}}
{{- $port := regexFind "[0-9]+$" $telemetry -}}
{{- if $telemetry -}}
{{- if .Values.hostNetwork -}}
{{- if or (ne $port $telemetryPort) (not (regexMatch "^(127\\.0\\.0\\.1|0\\.0\\.0\\.0|\\[::\\]):" $telemetry)) -}}
{{- fail (printf "config.telemetry.listen: %s is not where the kubelet probes with hostNetwork, which is 127.0.0.1:%s: set only telemetry.port" $telemetry $telemetryPort) -}}
{{- end -}}
{{- else if and $port (ne $port $telemetryPort) (hasKey $ports $port) -}}
{{- fail (printf "config.telemetry.listen: %s: %s is %s already: choose another port" $telemetry $port (get $ports $port)) -}}
{{- end -}}
{{- if and (eq (include "larder.exposes" .) "true") (eq $port $telemetryPort) (regexMatch "^(0\\.0\\.0\\.0|\\[::\\]):" $telemetry) -}}
{{- fail (printf "config.telemetry.listen: %s takes the port of the pod's own address, where metrics and health are exposed already: remove this key" $telemetry) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.runtime.enabled (ne .Values.runtime.preset "crio") (eq (include "larder.certsDir" . | dir) "/") -}}
{{- fail (printf "runtime.certsDir: %s lies in the node's root directory, so the whole root would be mounted: choose a path of two or more levels" .Values.runtime.certsDir) -}}
{{- end -}}
{{- if and .Values.runtime.watch.enabled (regexMatch "^/(var/)?(run/)?[^/]*$" (include "larder.watchSocket" .)) -}}
{{- fail (printf "runtime.watch.socket: %s lies in a directory with the sockets of other programs, which would all be mounted: choose a socket in a directory of the runtime's own" .Values.runtime.watch.socket) -}}
{{- end -}}
{{- if ne .Values.streaming.mode "off" -}}
{{- if eq .Values.runtime.preset "crio" -}}
{{- fail "streaming.mode: CRI-O has nothing that mounts larder's files: leave it off on these nodes" -}}
{{- end -}}
{{- if not .Values.runtime.watch.enabled -}}
{{- fail "streaming.mode: only the watcher knows which files the runtime still uses: set runtime.watch.enabled" -}}
{{- end -}}
{{- if ne .Values.store.type "hostPath" -}}
{{- fail (printf "streaming.mode: with store.type %s larder is not root and cannot write %s on the node: set store.type to hostPath" .Values.store.type .Values.streaming.directory) -}}
{{- end -}}
{{- end -}}
{{- range $key := list "mode" "directory" -}}
{{- if dig "streaming" $key "" $.Values.config -}}
{{- fail (printf "config.streaming.%s: set streaming.%s, which also mounts the directory" $key $key) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.warm.nodeLabels (dig "warm" "labels_file" "" .Values.config) -}}
{{- fail "config.warm.labels_file: warm.nodeLabels makes this file: remove one of the two" -}}
{{- end -}}
{{- $registries := list -}}
{{- range .Values.credentials -}}
{{- if has .registry $registries -}}
{{- fail (printf "credentials: %s is listed twice, and a registry has one source of credentials: remove one entry" .registry) -}}
{{- end -}}
{{- $registries = append $registries .registry -}}
{{- end -}}
{{- end -}}
