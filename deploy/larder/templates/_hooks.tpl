{{/* Shared by the hooks: a DaemonSet does the work on every node, and a Job waits for it. */}}

{{- define "larder.hookAnnotations" -}}
helm.sh/hook: {{ .event }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* The Job and its rights: it may read that one DaemonSet. */}}
{{- define "larder.hookWait" -}}
{{- $ := .context -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "larder.labels" $ | nindent 4 }}
  annotations:
    {{- include "larder.hookAnnotations" (dict "event" .event "weight" "-10") | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "larder.labels" $ | nindent 4 }}
  annotations:
    {{- include "larder.hookAnnotations" (dict "event" .event "weight" "-10") | nindent 4 }}
rules:
  - apiGroups: [apps]
    resources: [daemonsets]
    resourceNames: [{{ .name }}]
    verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "larder.labels" $ | nindent 4 }}
  annotations:
    {{- include "larder.hookAnnotations" (dict "event" .event "weight" "-10") | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .name }}
    namespace: {{ $.Release.Namespace }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "larder.labels" $ | nindent 4 }}
  annotations:
    {{- include "larder.hookAnnotations" (dict "event" .event "weight" "5") | nindent 4 }}
spec:
  backoffLimit: 0
  template:
    metadata:
      labels:
        {{- include "larder.selector" $ | nindent 8 }}
        app.kubernetes.io/component: hook
    spec:
      restartPolicy: Never
      serviceAccountName: {{ .name }}
      automountServiceAccountToken: true
      {{- with $.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      tolerations:
        - operator: Exists
      nodeSelector:
        kubernetes.io/os: linux
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: wait
          image: {{ $.Values.hooks.image }}
          command: [kubectl]
          args:
            - rollout
            - status
            - daemonset/{{ .name }}
            - --namespace={{ $.Release.Namespace }}
            - --timeout={{ $.Values.hooks.timeoutSeconds }}s
            - --cache-dir=/tmp
          securityContext:
            {{- include "larder.containerSecurity" $ | nindent 12 }}
          resources:
            requests: {cpu: 10m, memory: 32Mi}
            limits: {memory: 128Mi}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
      volumes:
        - name: tmp
          emptyDir: {}
{{- end -}}
