{{- /*
Names are fixed: a cluster has one Egret. The datapath's table, the EgressConfig `default`, the field managers and the cluster roles
would meet otherwise, and helm refuses the second release because they belong to the first.
*/}}

{{- /*
`helm upgrade --reuse-values` takes the values of the release that is there, without the defaults of the new chart, and `--set webhook=null` takes
a default away. Both leave nil where templates look into a map. So each template begins by filling in what is missing, from defaults.yaml: a
copy of values.yaml, which no template can read. Maps that are free in form (resources, labels, selectors) are filled only as a whole, so that a
limit can be taken away by null.
*/}}
{{- define "egret.defaults" -}}
{{- include "egret.fill" (dict "into" .Values "from" (.Files.Get "defaults.yaml" | fromYaml)) }}
{{- end }}

{{- define "egret.fill" -}}
{{- range $key, $default := .from }}
{{- $value := get $.into $key }}
{{- if or (not (hasKey $.into $key)) (kindIs "invalid" $value) }}
{{- $_ := set $.into $key $default }}
{{- else if and (kindIs "map" $default) (kindIs "map" $value) (not (has $key (list "resources" "labels" "annotations"))) }}
{{- include "egret.fill" (dict "into" $value "from" $default) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "egret.labels" -}}
{{- with .Values.commonLabels }}
{{- toYaml . }}
{{ end -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: egret
app.kubernetes.io/name: egret
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* What a workload selects its pods by; it can never be changed. */}}
{{- define "egret.selector" -}}
app.kubernetes.io/name: egret
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "egret.image" -}}
{{- $repository := required "image.repository is needed: there is no public image yet. `make image` builds one; push it to a registry of yours and name it by --set image.repository=REGISTRY/egret" .Values.image.repository }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "egret.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "egret.repo" -}}
{{- required "git.repo is needed: --set git.repo=https://… or ssh://… or user@host:path" .Values.git.repo }}
{{- end }}

{{- /* The Git server's port: what the URL says, or its scheme's. `user@host:path` has none to say. */}}
{{- define "egret.gitPort" -}}
{{- $repo := include "egret.repo" . }}
{{- $said := regexFind "^[a-z]+://([^/]*@)?([^/:]+|\\[[^/]*\\]):[0-9]+" $repo | regexFind "[0-9]+$" }}
{{- if and (contains "://" $repo) $said }}
{{- $said }}
{{- else }}
{{- hasPrefix "https://" $repo | ternary 443 22 }}
{{- end }}
{{- end }}

{{- /* The port of the forge's API. */}}
{{- define "egret.forgePort" -}}
{{- $url := .Values.previews.url | default .Values.githubApp.api }}
{{- regexFind "^https://(\\[[^/]*\\]|[^/:]+):[0-9]+" $url | regexFind "[0-9]+$" | default "443" }}
{{- end }}

{{- /* Environment of every container of ours. */}}
{{- define "egret.env" -}}
- name: RUST_LOG
  value: {{ .Values.log.level | quote }}
{{- with .Values.apiServer }}
{{- if .host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .port | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A pod that is nobody and may do nothing. */}}
{{- define "egret.nobody.pod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "egret.nobody.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /*
The agent's container. User 0, and why: NET_ADMIN has to be effective when the program starts. For another user that takes an ambient
capability, which Kubernetes cannot give, or one of the file's, which allowPrivilegeEscalation: false (no_new_privs) takes away; and
a user namespace cannot be had together with the node's network. User 0 without the other capabilities is no root: it owns its folder
on the node and may configure the network, but cannot read other users' files, load modules, mount, or trace.
*/}}
{{- define "egret.agent.container" -}}
runAsNonRoot: false
runAsUser: 0
runAsGroup: 0
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  # NET_RAW: to ask on the link who has an egress address that a policy assigns, and to announce it.
  # NET_BIND_SERVICE: to make the client of a connection speak, the agent speaks as its server, which may have a privileged port.
  add: [NET_ADMIN, NET_BIND_SERVICE, NET_RAW]
{{- end }}

{{- define "egret.agent.mounts" -}}
- name: state
  mountPath: /var/lib/egret
- name: sysctl
  mountPath: /host/proc/sys/net
{{- end }}

{{- /* What values.schema.json cannot say in words. */}}
{{- define "egret.check" -}}
{{- range $key, $_ := .Values.commonLabels }}
{{- if regexMatch "^(app[.]kubernetes[.]io|helm[.]sh|egret[.]dev)/" $key }}
{{- fail (printf "commonLabels has %s, which the chart gives" $key) }}
{{- end }}
{{- end }}
{{- $git := .Values.git }}
{{- $repo := include "egret.repo" . }}
{{- $https := hasPrefix "https://" $repo }}
{{- if or (hasPrefix "http://" $repo) (hasPrefix "git://" $repo) }}
{{- fail (printf "git.repo is %s: anybody on the way could change what it says; use https or ssh" $repo) }}
{{- end }}
{{- if regexMatch "^https://[^/]*@" $repo }}
{{- fail "git.repo has credentials in it: they belong into a Secret; name it by git.existingSecret, and take git.auth=token" }}
{{- end }}
{{- if not (regexMatch "^(https://[^/]+/.+|ssh://[^/]+/.+|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:.+)$" $repo) }}
{{- fail (printf "git.repo is %s, which is none of https://HOST/PATH, ssh://HOST/PATH and USER@HOST:PATH" $repo) }}
{{- end }}
{{- if or (eq .Values.image.tag "latest") (hasSuffix ":latest" .Values.removeIdleImage) }}
{{- fail "an image's tag is latest: nobody could tell which version a node runs; name one" }}
{{- end }}
{{- range $component, $given := dict "controller" .Values.controller "agent" .Values.agent }}
{{- range $given.extraEnv }}
{{- if hasPrefix "EGRET_" .name }}
{{- fail (printf "%s.extraEnv has %s: Egret's own settings come from the chart's values; extraArgs has the others" $component .name) }}
{{- end }}
{{- end }}
{{- $own := list "--repo" "--cluster-name" "--state-dir" "--namespace" "--lease" "--identity" "--listen" "--ui" "--ui-host" "--node" "--remove" }}
{{- range $given.extraArgs }}
{{- if has (regexFind "^--[a-z0-9-]+" .) $own }}
{{- fail (printf "%s.extraArgs has %s, which the chart gives" $component .) }}
{{- end }}
{{- end }}
{{- end }}
{{- $app := .Values.githubApp }}
{{- $previews := .Values.previews }}
{{- if and $app.id (not $app.existingSecret) }}
{{- fail "githubApp.id is given: githubApp.existingSecret must name the Secret with the App's private key" }}
{{- end }}
{{- if and (not $app.id) (or (eq $git.auth "app") $app.existingSecret) }}
{{- fail "git.auth is app, or githubApp.existingSecret is given: githubApp.id must say which App it is" }}
{{- end }}
{{- if and $app.id (ne $git.auth "app") (ne $previews.forge "github") }}
{{- fail "githubApp is given and nothing uses it: take git.auth=app, or previews.forge=github" }}
{{- end }}
{{- if and $app.id $https (eq $git.auth "none") }}
{{- fail "githubApp is given and git.auth is none: take git.auth=app" }}
{{- end }}
{{- if and $previews.forge (not $previews.existingSecret) (not (and $app.id (eq $previews.forge "github"))) }}
{{- fail (printf "previews.forge is %s: previews.existingSecret must name the Secret with a token for it" $previews.forge) }}
{{- end }}
{{- if and (not $previews.forge) $previews.existingSecret }}
{{- fail "previews.existingSecret is given and previews.forge is not: say which forge the token is for" }}
{{- end }}
{{- if and (eq $previews.forge "gitea") (not $previews.url) }}
{{- fail "previews.forge is gitea: previews.url must say where it is" }}
{{- end }}
{{- if and (has $git.auth (list "ssh" "token")) (not $git.existingSecret) }}
{{- fail (printf "git.auth is %s: git.existingSecret must name the Secret with the credentials (values.yaml says which keys)" $git.auth) }}
{{- end }}
{{- if and (eq $git.auth "app") $git.existingSecret }}
{{- fail "git.existingSecret is given and git.auth is app: the App's key is in githubApp.existingSecret" }}
{{- end }}
{{- if and (eq $git.auth "none") $git.existingSecret }}
{{- fail "git.existingSecret is given and git.auth is none: set git.auth to ssh or token" }}
{{- end }}
{{- if and (eq $git.auth "ssh") $https }}
{{- fail "git.auth is ssh and git.repo is an https address: take git.auth=token, or ssh://… as the repository" }}
{{- end }}
{{- if and (ne $git.auth "ssh") (not $https) }}
{{- fail (printf "git.repo is an SSH address and git.auth is %s: take git.auth=ssh with a Secret that has ssh-privatekey and known_hosts" $git.auth) }}
{{- end }}
{{- if and $git.clientCertificateSecret (not $https) }}
{{- fail "git.clientCertificateSecret is for HTTPS, and git.repo is an SSH address: take git.auth=ssh with a Secret alone" }}
{{- end }}
{{- if and (or $git.proxy.url $git.proxy.existingSecret) (not $https) }}
{{- fail "git.proxy is for HTTPS, and git.repo is an SSH address" }}
{{- end }}
{{- if and $git.proxy.url $git.proxy.existingSecret }}
{{- fail "git.proxy.url and git.proxy.existingSecret are both given: name the proxy once" }}
{{- end }}
{{- if and .Values.webhook.enabled (not .Values.webhook.existingSecret) }}
{{- fail "webhook.enabled is true: webhook.existingSecret must name the Secret with the webhook's secret" }}
{{- end }}
{{- if and .Values.webhook.enabled (eq (int .Values.webhook.port) (int .Values.controller.port)) }}
{{- fail "webhook.port is controller.port: they are two servers" }}
{{- end }}
{{- if and .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled }}
{{- fail "monitoring.podMonitor and monitoring.serviceMonitor are both enabled: everything would be scraped twice" }}
{{- end }}
{{- end }}

{{/* In CEL: whether Egret may write the label with this key. egret's core::labels::keys has the same rule. */}}
{{- define "egret.labelAllowed" -}}
{{- $tests := list -}}
{{- range .Values.nodeLabels.allowedKeys -}}
{{- $tests = append $tests (printf "key.matches('^%s$')" (. | replace "." "[.]" | replace "*" "[^/]*")) -}}
{{- end -}}
{{- if $tests -}}
{{- join " || " $tests -}}
{{- else -}}
!key.matches('^([^/]*[.])?(kubernetes|k8s)[.]io/') || key.matches('^([^/]*[.])?node-restriction[.]kubernetes[.]io/')
{{- end -}}
{{- end -}}
