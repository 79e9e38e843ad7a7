{{/* The node's own labels, for warm sets. Only this container has a token of the API server. */}}

{{- define "larder.nodeLabelsContainer" -}}
- name: node-labels
  image: {{ include "larder.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - node-labels
    - --file=/run/larder-node/labels
    # Without the API server, larder has to start all the same.
    - --optional
  env:
    - name: NODE_NAME
      valueFrom:
        fieldRef:
          fieldPath: spec.nodeName
  securityContext:
    {{- include "larder.containerSecurity" . | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - name: node-labels
      mountPath: /run/larder-node
    - name: api-access
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
{{- end -}}

{{- define "larder.nodeLabelsVolumes" -}}
- name: node-labels
  emptyDir: {}
- name: api-access
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end -}}
