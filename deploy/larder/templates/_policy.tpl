{{/*
The rewriting of images, in CEL: one set of expressions for Kubernetes' own policies and for Kyverno's.

An image is rewritten if it is of a chosen registry, if no layer excludes it, and if it is new or changed in this
request. Nothing else in the pod changes.
*/}}

{{/* Patterns, in which * matches anything, as one anchored regular expression. */}}
{{- define "larder.globs" -}}
{{- $parts := list -}}
{{- range . -}}{{- $parts = append $parts (regexQuoteMeta . | replace "\\*" ".*") -}}{{- end -}}
{{- printf "^(%s)$" (join "|" $parts) -}}
{{- end -}}

{{/* Whether an `include` or `exclude` names the request's namespace or the pod. */}}
{{- define "larder.cel.named" -}}
{{- $parts := list -}}
{{- with .namespaces -}}
{{- $parts = append $parts (printf "request.namespace.matches(%s)" (include "larder.globs" . | toJson)) -}}
{{- end -}}
{{- range $key, $value := .labels -}}
{{- range $of := list "object" "namespaceObject" -}}
{{- $labels := printf "%s.metadata.labels" $of -}}
{{- $parts = append $parts (printf "(has(%s.metadata) && has(%s) && %s in %s && %s[%s] == %s)" $of $labels (toJson $key) $labels $labels (toJson $key) (toJson $value)) -}}
{{- end -}}
{{- end -}}
{{- if $parts -}}{{- join " || " $parts -}}{{- else -}}false{{- end -}}
{{- end -}}

{{/* Whether an `include` or `exclude` names the image. */}}
{{- define "larder.cel.namedImage" -}}
{{- if .images -}}
{{- printf "i.name.matches(%s)" (include "larder.globs" .images | toJson) -}}
{{- else -}}false{{- end -}}
{{- end -}}

{{/* The chosen registries, at the start of an image's full name. A registry with a port never matches: a path takes no port. */}}
{{- define "larder.registries" -}}
{{- $parts := list -}}
{{- range . -}}
{{- if eq . "docker.io" -}}
{{- $parts = append $parts "((index|registry-1)\\.)?docker\\.io" -}}
{{- else -}}
{{- $parts = append $parts (regexQuoteMeta . | replace "\\*" "[^/:]*") -}}
{{- end -}}
{{- end -}}
{{- printf "^(%s)/" (join "|" $parts) -}}
{{- end -}}

{{- define "larder.cel.variables" -}}
{{- $policies := .Values.policies -}}
# The images before the request, so that another change of an existing pod restarts no container.
- name: before
  expression: |-
    oldObject == null || !has(oldObject.spec) ? [] :
      {{- range $i, $kind := list "containers" "initContainers" "ephemeralContainers" }}
      {{ if $i }}+ {{ end }}(has(oldObject.spec.{{ $kind }}) ? oldObject.spec.{{ $kind }}.filter(c, has(c.image))
        .map(c, {{ printf "%s/" $kind | quote }} + c.name + "=" + c.image) : [])
      {{- end }}
      + (has(oldObject.spec.volumes) ? oldObject.spec.volumes.filter(v, has(v.image) && has(v.image.reference))
        .map(v, "volumes/" + v.name + "=" + v.image.reference) : [])
# Every image of the pod: its path in the pod and its full name. An empty image, or auto, is left out: another webhook
# fills it in, such as that of a mesh's sidecars.
- name: images
  expression: |-
    (
      {{- range $i, $kind := list "containers" "initContainers" "ephemeralContainers" }}
      {{ if $i }}+ {{ end }}(has(object.spec.{{ $kind }}) ? object.spec.{{ $kind }}
        .filter(c, has(c.image) && !(has(c.imagePullPolicy) && c.imagePullPolicy == "Never"))
        .map(c, {
          "key": {{ printf "%s/" $kind | quote }} + c.name + "=" + c.image,
          "path": {{ printf "/spec/%s/" $kind | quote }} + string(object.spec.{{ $kind }}.indexOf(c)) + "/image",
          "image": string(c.image)}) : [])
      {{- end }}
      + (has(object.spec.volumes) ? object.spec.volumes
        .filter(v, has(v.image) && has(v.image.reference) && !(has(v.image.pullPolicy) && v.image.pullPolicy == "Never"))
        .map(v, {
          "key": "volumes/" + v.name + "=" + v.image.reference,
          "path": "/spec/volumes/" + string(object.spec.volumes.indexOf(v)) + "/image/reference",
          "image": string(v.image.reference)}) : [])
    ).filter(i, !(i.image in ["", "auto"])).map(i, {
      "key": i.key,
      "path": i.path,
      "name":
        i.image.matches("^docker\\.io/[^/]+$") ? "docker.io/library/" + i.image.split("/")[1] :
        i.image.matches("^([^/]*[.:][^/]*|localhost)/") ? i.image :
        i.image.contains("/") ? "docker.io/" + i.image : "docker.io/library/" + i.image})
# The operator's layer and the users'. They are variables because match conditions cannot see the namespace's labels.
- name: operatorExcluded
  expression: {{ include "larder.cel.named" $policies.operator.exclude | quote }}
- name: userExcluded
  expression: {{ include "larder.cel.named" $policies.users.exclude | quote }}
- name: operatorIncluded
  expression: {{ include "larder.cel.named" $policies.operator.include | quote }}
# The images to rewrite: of a chosen registry, new or changed, and not excluded. The operator's layer takes precedence.
- name: chosen
  expression: |-
    variables.images.filter(i,
      i.name.matches({{ include "larder.registries" $policies.registries | toJson }}) && !i.name.startsWith("localhost/")
      && !(i.key in variables.before)
      && !(variables.operatorExcluded || {{ include "larder.cel.namedImage" $policies.operator.exclude }})
      && (variables.operatorIncluded || {{ include "larder.cel.namedImage" $policies.operator.include }}
        || !(variables.userExcluded || {{ include "larder.cel.namedImage" $policies.users.exclude }})))
{{- end -}}

{{- define "larder.cel.mutation" -}}
variables.chosen.map(i, JSONPatch{op: "replace", path: i.path, value: {{ printf "localhost:%v/" .Values.registry.port | quote }} + i.name})
{{- end -}}

{{- define "larder.cel.conditions" -}}
# The kubelet runs a static pod already. Its mirror pod only shows it.
- name: not-static
  expression: >-
    !(has(object.metadata.annotations) && "kubernetes.io/config.mirror" in object.metadata.annotations)
{{- if not .Values.policies.hostNetwork }}
# Such pods provide the network, and larder's pod may need the network to start.
- name: no-host-network
  expression: >-
    !(has(object.spec.hostNetwork) && object.spec.hostNetwork)
{{- end }}
{{- if not .Values.policies.pullSecrets }}
# The kubelet finds a pod's secrets by the registry's name, and rewriting removes that name.
- name: no-pull-secrets
  expression: >-
    !(has(object.spec.imagePullSecrets) && object.spec.imagePullSecrets.size() > 0)
{{- end }}
{{- end -}}

{{/* Excludes system pods, pods that larder needs to start, and larder's own: it cannot pull its image through itself. */}}
{{- define "larder.policyScope" -}}
matchPolicy: Equivalent
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values:
        {{- range append .Values.policies.systemNamespaces .Release.Namespace | uniq }}
        - {{ . | quote }}
        {{- end }}
resourceRules:
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [CREATE, UPDATE]
    resources: [pods]
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [UPDATE]
    resources: [pods/ephemeralcontainers]
{{- end -}}
