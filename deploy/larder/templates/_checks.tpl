{{/* What the schema cannot see, since it lies between values: refused here, by name. */}}

{{- define "larder.checks" -}}
{{- $ports := dict (toString .Values.registry.port) "registry.port" -}}
{{- $others := list (list "telemetry.port" .Values.telemetry.port) -}}
{{- if .Values.peers.enabled -}}{{- $others = append $others (list "peers.port" .Values.peers.port) -}}{{- end -}}
{{- range $others -}}
{{- $name := first . -}}
{{- $port := last . | toString -}}
{{- with get $ports $port -}}{{- fail (printf "%s: %s is %s already" $name . $port) -}}{{- end -}}
{{- $_ := set $ports $port $name -}}
{{- end -}}
{{- $listen := dig "registry" "listen" "" .Values.config | toString -}}
{{- if and (not .Values.hostNetwork) (regexMatch "^(127\\.|\\[::1\\])" $listen) -}}
{{- fail (printf "config.registry.listen: %s is the pod's own loopback, which no hostPort reaches: leave it out, or set hostNetwork" $listen) -}}
{{- end -}}
{{- $registryPort := toString .Values.registry.port -}}
{{- with $listen -}}{{- if ne (regexFind "[0-9]+$" .) $registryPort -}}
{{- fail (printf "config.registry.listen: %s has another port than registry.port, which is %s: set that alone" . $registryPort) -}}
{{- end -}}{{- end -}}
{{- $telemetryPort := toString .Values.telemetry.port -}}
{{- $telemetry := dig "telemetry" "listen" "" .Values.config | toString -}}
{{- $port := regexFind "[0-9]+$" $telemetry -}}
{{- if $telemetry -}}
{{- if .Values.hostNetwork -}}
{{- if or (ne $port $telemetryPort) (not (regexMatch "^(127\\.0\\.0\\.1|0\\.0\\.0\\.0|\\[::\\]):" $telemetry)) -}}
{{- fail (printf "config.telemetry.listen: %s is not where the kubelet probes with hostNetwork, which is 127.0.0.1:%s: set telemetry.port alone" $telemetry $telemetryPort) -}}
{{- end -}}
{{- else if and $port (ne $port $telemetryPort) (hasKey $ports $port) -}}
{{- fail (printf "config.telemetry.listen: %s: %s is %s already" $telemetry $port (get $ports $port)) -}}
{{- end -}}
{{- if and (eq (include "larder.exposes" .) "true") (eq $port $telemetryPort) (regexMatch "^(0\\.0\\.0\\.0|\\[::\\]):" $telemetry) -}}
{{- fail (printf "config.telemetry.listen: %s takes the port of the pod's own address, where metrics and health are exposed already: leave it out" $telemetry) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.runtime.enabled (ne .Values.runtime.preset "crio") (eq (include "larder.certsDir" . | dir) "/") -}}
{{- fail (printf "runtime.certsDir: %s lies in the node's root directory, which would be mounted whole: choose a directory below another" .Values.runtime.certsDir) -}}
{{- end -}}
{{- $registries := list -}}
{{- range .Values.credentials -}}
{{- if has .registry $registries -}}
{{- fail (printf "credentials: %s is there twice, and a registry has one source of credentials" .registry) -}}
{{- end -}}
{{- $registries = append $registries .registry -}}
{{- end -}}
{{- end -}}
