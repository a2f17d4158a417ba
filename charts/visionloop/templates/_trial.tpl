{{/* Names that do not depend on the release, so that examples/laptop.yaml can point at them. */}}
{{- define "trial.labels" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/component: trial
{{- end -}}

{{/* A server of one pod: StatefulSet, Service and NetworkPolicy. Takes root, name, image, port,
container (YAML), data and scratch (where they are mounted), from (the names of the release's pods
that may reach it; empty: this namespace). */}}
{{- define "trial.server" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ .name }}
  labels:
    {{- include "visionloop.labels" $root | nindent 4 }}
    visionloop/for: trying-out # no replicas, no backups, no TLS
spec:
  replicas: 1
  serviceName: {{ .name }}
  selector:
    matchLabels:
      {{- include "trial.labels" .name | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "trial.labels" .name | nindent 8 }}
        app.kubernetes.io/part-of: visionloop
        visionloop/for: trying-out
        {{- with $root.Values.global.labels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with $root.Values.global.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- include "visionloop.podSecurity" $root | nindent 6 }}
      containers:
        - name: server
          image: {{ include "visionloop.image" (dict "root" $root "image" .image "registry" "docker.io") }}
          imagePullPolicy: {{ .image.pullPolicy }}
          {{- .container | nindent 10 }}
          ports:
            - {name: server, containerPort: {{ .port }}}
          readinessProbe:
            tcpSocket: {port: server}
            periodSeconds: 2
          livenessProbe:
            tcpSocket: {port: server}
            initialDelaySeconds: 30
            periodSeconds: 20
          resources:
            requests: {cpu: 100m, memory: 512Mi}
            limits: {memory: 2Gi}
          {{- include "visionloop.containerSecurity" $root | nindent 10 }}
          volumeMounts:
            - {name: data, mountPath: {{ .data }}}
            {{- range .scratch }}
            - {name: scratch, mountPath: {{ . }}, subPath: {{ base . }}}
            {{- end }}
      volumes:
        - name: scratch
          emptyDir: {}
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $root.Values.trial.storageClassName }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ $root.Values.trial.size }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  labels:
    {{- include "visionloop.labels" $root | nindent 4 }}
spec:
  selector:
    {{- include "trial.labels" .name | nindent 4 }}
  ports:
    - {name: server, port: {{ .port }}, targetPort: server}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .name }}
  labels:
    {{- include "visionloop.labels" $root | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "trial.labels" .name | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports:
        - {port: {{ .port }}, protocol: TCP}
      from:
        {{- range .from }}
        - podSelector:
            matchLabels:
              app.kubernetes.io/name: {{ . }}
              app.kubernetes.io/instance: {{ $root.Release.Name }}
        {{- else }}
        - podSelector: {} # this namespace
        {{- end }}
{{- end -}}

{{- define "trial.storeContainer" -}}
command: [weed]
args:
  - mini
  - -dir=/data
  - -ip=127.0.0.1
  - "-ip.bind={{ ternary "[::]" "0.0.0.0" (.Values.global.ipv6 | default false) }}"
  - -s3.port=8333
  - -s3.port.iceberg=0
  - -s3.port.lance=0
  - -webdav=false
  - -admin.ui=false
  - -master.telemetry=false
  - -bucket={{ .Values.trial.store.bucket }}
env:
  {{- range $key := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
  - name: {{ $key }}
    valueFrom:
      secretKeyRef:
        name: visionloop-trial-store
        key: {{ $key }}
  {{- end }}
{{- end -}}

{{- define "trial.postgresContainer" -}}
env:
  - name: POSTGRES_USER
    value: visionloop
  - name: POSTGRES_DB
    value: visionloop
  - name: PGDATA
    value: /var/lib/postgresql/18/docker
  - name: POSTGRES_PASSWORD
    valueFrom:
      secretKeyRef:
        name: visionloop-trial-database
        key: password
{{- end -}}
