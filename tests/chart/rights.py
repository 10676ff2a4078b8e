"""Every right that the chart gives, by account. A change of RBAC is a change of this list, and so a reviewer sees it."""

AGENT = {
    "nodes": ["list", "watch"],
    "namespaces": ["list", "watch"],
    "pods": ["list", "watch"],
    "publishedegresspolicies.egret.dev": ["list", "watch"],
    "egressconfigs.egret.dev": ["list", "watch"],
    "egressnodes.egret.dev": ["create", "get", "list", "patch", "watch"],
    "egressnodes.egret.dev/status": ["patch"],
    "tokenreviews.authentication.k8s.io": ["create"],
    "default: events.events.k8s.io": ["create", "patch"],
    "egret-system: leases.coordination.k8s.io": ["create", "patch"],
}

# With `remove: true` an agent deletes its EgressNode.
LEAVING = {
    **AGENT,
    "egressnodes.egret.dev": ["create", "delete", "get", "list", "patch", "watch"],
    "egret-system: leases.coordination.k8s.io": ["create", "delete", "patch"],
}

# To ask agents; the chart binds it to nobody.
EXPLAIN = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["egret-viewer"], "verbs": ["create"]},
]

CONTROLLER = {
    "nodes": ["get", "list", "patch", "watch"],
    "namespaces": ["list"],
    "pods": ["list"],
    "publishedegresspolicies.egret.dev": ["create", "delete", "list", "patch", "watch"],
    "publishedegresspolicies.egret.dev/status": ["patch"],
    "egressconfigs.egret.dev": ["list", "watch"],
    "egressconfigs.egret.dev default": ["create", "patch"],
    "egressconfigs.egret.dev/status default": ["patch"],
    "egressnodes.egret.dev": ["delete", "list", "watch"],
    "egressnodes.egret.dev/status": ["patch"],
    "default: events.events.k8s.io": ["create", "patch"],
    "egret-system: leases.coordination.k8s.io": ["create", "list", "watch"],
    "egret-system: leases.coordination.k8s.io egret-controller": ["get", "update"],
}

# Only with `podNetworks.fromCNI`.
POOLS = {
    "ippools.crd.projectcalico.org": ["list", "watch"],
    "ciliumpodippools.cilium.io": ["list", "watch"],
    "ciliumnodes.cilium.io": ["list", "watch"],
}

# Only with `remove: true`.
REMOVE = {
    "nodes": ["get", "list", "patch"],
    "publishedegresspolicies.egret.dev": ["delete", "list"],
    "egressconfigs.egret.dev default": ["delete"],
    "egressnodes.egret.dev": ["delete", "list"],
    "egret-system: leases.coordination.k8s.io": ["delete", "list"],
    "egret-system: leases.coordination.k8s.io egret-controller": ["delete", "get"],
}

# Every flag that the chart's containers give, by command. `egret COMMAND --help` must know them, once there is such a command.
FLAGS = {
    "controller": {
        "--repo", "--branch", "--cluster-name", "--poll", "--git-ssh-key", "--git-known-hosts", "--git-password-file", "--state-dir",
        "--require-signed", "--allowed-signers", "--openpgp-keys", "--signing-key",
        "--allowed-label-keys", "--git-ca-file", "--git-client-certificate", "--git-client-key", "--git-proxy", "--git-connect-timeout", "--git-idle-timeout",
        "--git-timeout", "--git-max-lag", "--git-max-size", "--webhook", "--webhook-secret-file",
        "--namespace", "--lease", "--identity", "--listen", "--ui", "--ui-host", "--log-json", "--remove",
        "--github-app-id", "--github-app-key-file", "--github-app-installation", "--github-api",
        "--keep-startup-taint", "--pod-networks-from-cni",
        "--previews", "--forge-url", "--project", "--forge-token-file", "--forge-author",
    },
    "agent": {"--node", "--namespace", "--state-dir", "--listen", "--log-json", "--remove"},
}
