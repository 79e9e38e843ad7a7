{{/* Shared by the hooks: a DaemonSet does the work on every node, and a Job waits for it. */}}

{{- define "larder.hookAnnotations" -}}
helm.sh/hook: {{ .event }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* Once the Job fails, Helm deletes what succeeded before it. The DaemonSet stays, so that a person can read its pods'
logs. It belongs to the Job, and is deleted with it. */}}
{{- define "larder.hookSetAnnotations" -}}
helm.sh/hook: {{ .event }}
helm.sh/hook-weight: "0"
helm.sh/hook-delete-policy: before-hook-creation
{{- end -}}

{{/* The Job and its rights. It reads the hook's DaemonSet with its pods and events, and larder's own DaemonSet. */}}
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
    verbs: [get, patch]
  - apiGroups: [apps]
    resources: [daemonsets]
    resourceNames: [{{ include "larder.fullname" $ }}]
    verbs: [get]
  - apiGroups: [""]
    resources: [pods, events]
    verbs: [list]
  {{- with .clear }}
  # What a hook that failed before has left.
  - apiGroups: [batch]
    resources: [jobs]
    resourceNames: [{{ . }}]
    verbs: [delete]
  {{- end }}
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
    # Helm 4 shows what the Job says of each node.
    helm.sh/hook-output-log-policy: hook-failed
spec:
  backoffLimit: 0
  # The command ends by itself before that, unless its pod does not start or its node dies.
  activeDeadlineSeconds: {{ add .timeout 30 }}
  # A Job that failed stays for a day, with its DaemonSet.
  ttlSecondsAfterFinished: 86400
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
      {{- with $.Values.hooks.tolerations }}
      # A toleration of every taint would put the Job on a node that is down.
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
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
          image: {{ include "larder.image" $ }}
          imagePullPolicy: {{ $.Values.image.pullPolicy }}
          args:
            - hook
            - {{ .purpose }}
            - --name={{ .name }}
            - --larder={{ include "larder.fullname" $ }}
            {{- with .clear }}
            - --clear={{ . }}
            {{- end }}
            - --timeout={{ .timeout }}
          terminationMessagePolicy: FallbackToLogsOnError
          env:
            - name: LARDER_JOB_UID
              valueFrom:
                fieldRef:
                  fieldPath: metadata.labels['batch.kubernetes.io/controller-uid']
          securityContext:
            {{- include "larder.containerSecurity" $ | nindent 12 }}
          resources:
            requests: {cpu: 10m, memory: 16Mi}
            limits: {memory: 128Mi}
{{- end -}}
