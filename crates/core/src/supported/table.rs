use serde_json::Value;

use super::{Field, Only, Place, State};

const fn yes(path: &'static str) -> Field {
    note(path, "")
}

const fn note(path: &'static str, note: &'static str) -> Field {
    Field { path, state: State::Supported, note, only: None }
}

const fn ignored(path: &'static str, note: &'static str) -> Field {
    Field { path, state: State::Ignored, note, only: None }
}

const fn not_yet(path: &'static str, note: &'static str) -> Field {
    Field { path, state: State::NotYet, note, only: None }
}

const fn refused(path: &'static str, note: &'static str) -> Field {
    Field { path, state: State::Refused, note, only: None }
}

impl Field {
    const fn only(self, text: &'static str, holds: fn(&Place<'_>) -> bool) -> Self {
        Self { only: Some(Only { text, holds }), ..self }
    }
}

fn on_host_network(place: &Place<'_>) -> bool {
    place.spec.get("hostNetwork") == Some(&Value::Bool(true))
}

const SCHEDULER: &str = "the scheduler's";
const API: &str = "the API server's";
const OWNER: &str = "files belong to root, or to the fsGroup";
const PROBES: &str = "probes do not run yet: a container counts as ready while it runs";
const HOOKS: &str = "hooks do not run yet";
const NO_DRIVER: &str = "this kind of volume is not made yet";
const GONE: &str = "Kubernetes itself has dropped this kind of volume or serves it through CSI, which is not there yet";

/// Below `spec`.
pub(super) const POD: &[Field] = &[
    yes("activeDeadlineSeconds"),
    yes("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"),
    ignored("affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution", SCHEDULER),
    ignored("affinity.podAffinity", SCHEDULER),
    ignored("affinity.podAntiAffinity", SCHEDULER),
    ignored("automountServiceAccountToken", API),
    yes("dnsConfig.nameservers"),
    yes("dnsConfig.searches"),
    yes("dnsConfig.options"),
    yes("dnsPolicy"),
    yes("enableServiceLinks"),
    not_yet("ephemeralContainers", "ephemeral containers are not started yet"),
    ignored("evictionResponders", "the eviction controller's"),
    yes("hostAliases"),
    yes("hostIPC"),
    yes("hostNetwork"),
    yes("hostPID"),
    refused("hostUsers", "user namespaces are not made yet; without one the pod's root would be the host's")
        .only("`false`", |place| place.value == &Value::Bool(false)),
    yes("hostname"),
    yes("hostnameOverride"),
    yes("imagePullSecrets"),
    yes("nodeName"),
    yes("nodeSelector"),
    note("os", "`linux` only"),
    note("overhead", "counted at admission and in the pod's cgroup"),
    ignored("preemptionPolicy", SCHEDULER),
    note("priority", "criticality, OOM score"),
    note("priorityClassName", "OOM score"),
    yes("readinessGates"),
    refused("resourceClaims", "devices of dynamic resource allocation cannot be prepared"),
    refused("resources.claims", "devices of dynamic resource allocation cannot be prepared"),
    yes("resources.limits"),
    yes("resources.requests"),
    yes("restartPolicy"),
    refused("runtimeClassName", "there is one runtime, Podman's, and it has no classes"),
    ignored("schedulerName", SCHEDULER),
    ignored("schedulingGates", SCHEDULER),
    ignored("schedulingGroup", SCHEDULER),
    note("securityContext.appArmorProfile", "where the host has AppArmor; refused elsewhere"),
    yes("securityContext.fsGroup"),
    ignored("securityContext.fsGroupChangePolicy", "only a matter of speed: every file's owner is looked at"),
    yes("securityContext.runAsGroup"),
    yes("securityContext.runAsNonRoot"),
    yes("securityContext.runAsUser"),
    ignored("securityContext.seLinuxChangePolicy", "volumes are never mounted with an SELinux context"),
    note("securityContext.seLinuxOptions", "where the host has SELinux"),
    yes("securityContext.seccompProfile"),
    yes("securityContext.supplementalGroups"),
    refused("securityContext.supplementalGroupsPolicy", "groups of the image's /etc/group cannot be left out")
        .only("`Strict`", |place| place.value == "Strict"),
    note("securityContext.sysctls", "the safe ones, and those that `allowedUnsafeSysctls` names"),
    ignored("securityContext.windowsOptions", "for Windows"),
    note("serviceAccount", "the old name of serviceAccountName"),
    yes("serviceAccountName"),
    yes("setHostnameAsFQDN"),
    yes("shareProcessNamespace"),
    yes("subdomain"),
    yes("terminationGracePeriodSeconds"),
    yes("tolerations"),
    ignored("topologySpreadConstraints", SCHEDULER),
];

/// Below `spec.containers[]` and `spec.initContainers[]`.
pub(super) const CONTAINER: &[Field] = &[
    yes("args"),
    yes("command"),
    yes("env[].name"),
    yes("env[].value"),
    yes("env[].valueFrom.configMapKeyRef"),
    yes("env[].valueFrom.fieldRef"),
    not_yet("env[].valueFrom.fileKeyRef", "files of variables are not read yet; a container that needs one waits"),
    yes("env[].valueFrom.resourceFieldRef"),
    yes("env[].valueFrom.secretKeyRef"),
    yes("envFrom"),
    yes("image"),
    yes("imagePullPolicy"),
    not_yet("lifecycle.postStart", HOOKS),
    not_yet("lifecycle.preStop", HOOKS),
    not_yet("lifecycle.stopSignal", "the image's stop signal is sent"),
    not_yet("livenessProbe", PROBES),
    yes("name"),
    yes("ports[].containerPort"),
    not_yet("ports[].hostIP", "the host's port is not connected yet").only("without hostNetwork", |place| !on_host_network(place)),
    not_yet("ports[].hostPort", "the host's port is not connected yet; it counts as taken at admission")
        .only("without hostNetwork", |place| !on_host_network(place) && place.value.as_i64() != Some(0)),
    yes("ports[].name"),
    yes("ports[].protocol"),
    not_yet("readinessProbe", PROBES),
    ignored("resizePolicy", "resources are not changed in place yet"),
    refused("resources.claims", "devices of dynamic resource allocation cannot be prepared"),
    yes("resources.limits.cpu"),
    yes("resources.limits.memory"),
    not_yet("resources.limits.ephemeral-storage", "counted at admission, not enforced yet"),
    yes("resources.limits"),
    yes("resources.requests"),
    refused("restartPolicy", "containers with a restart policy of their own (sidecars among them) are not run yet"),
    refused("restartPolicyRules", "containers with a restart policy of their own are not run yet"),
    yes("securityContext.allowPrivilegeEscalation"),
    note("securityContext.appArmorProfile", "where the host has AppArmor; refused elsewhere"),
    yes("securityContext.capabilities"),
    yes("securityContext.privileged"),
    yes("securityContext.procMount"),
    yes("securityContext.readOnlyRootFilesystem"),
    yes("securityContext.runAsGroup"),
    yes("securityContext.runAsNonRoot"),
    yes("securityContext.runAsUser"),
    note("securityContext.seLinuxOptions", "where the host has SELinux"),
    yes("securityContext.seccompProfile"),
    ignored("securityContext.windowsOptions", "for Windows"),
    not_yet("startupProbe", PROBES),
    note("stdin", "stays open; attaching comes later"),
    not_yet("stdinOnce", "nobody can attach yet"),
    yes("terminationMessagePath"),
    yes("terminationMessagePolicy"),
    yes("tty"),
    refused("volumeDevices", "block devices are not handed to containers yet"),
    refused("volumeMounts[].bindMountOptions", "the mount would allow what these options forbid"),
    yes("volumeMounts[].mountPath"),
    yes("volumeMounts[].mountPropagation"),
    yes("volumeMounts[].name"),
    yes("volumeMounts[].readOnly"),
    yes("volumeMounts[].recursiveReadOnly"),
    yes("volumeMounts[].subPath"),
    yes("volumeMounts[].subPathExpr"),
    yes("workingDir"),
];

/// Below `spec.volumes[]`.
pub(super) const VOLUME: &[Field] = &[
    refused("awsElasticBlockStore", GONE),
    refused("azureDisk", GONE),
    refused("azureFile", GONE),
    refused("cephfs", GONE),
    refused("cinder", GONE),
    yes("configMap.defaultMode"),
    not_yet("configMap.defaultUser", OWNER),
    yes("configMap.items[].key"),
    yes("configMap.items[].mode"),
    yes("configMap.items[].path"),
    not_yet("configMap.items[].user", OWNER),
    yes("configMap.name"),
    yes("configMap.optional"),
    refused("csi", NO_DRIVER),
    yes("downwardAPI.defaultMode"),
    not_yet("downwardAPI.defaultUser", OWNER),
    yes("downwardAPI.items[].fieldRef"),
    yes("downwardAPI.items[].mode"),
    yes("downwardAPI.items[].path"),
    yes("downwardAPI.items[].resourceFieldRef"),
    not_yet("downwardAPI.items[].user", OWNER),
    refused("emptyDir.medium", "huge pages cannot be mounted yet")
        .only("`HugePages…`", |place| place.value.as_str().is_some_and(|medium| medium.starts_with("HugePages"))),
    not_yet("emptyDir.mode", "the folder's mode is 0777"),
    not_yet("emptyDir.sizeLimit", "not enforced yet for folders on disk")
        .only("unless `medium: Memory`", |place| place.parent.get("medium").and_then(Value::as_str) != Some("Memory")),
    refused("ephemeral", NO_DRIVER),
    refused("fc", NO_DRIVER),
    refused("flexVolume", GONE),
    refused("flocker", GONE),
    refused("gcePersistentDisk", GONE),
    refused("gitRepo", GONE),
    refused("glusterfs", GONE),
    yes("hostPath"),
    refused("image", NO_DRIVER),
    refused("iscsi", NO_DRIVER),
    yes("name"),
    refused("nfs", NO_DRIVER),
    refused("persistentVolumeClaim", NO_DRIVER),
    refused("photonPersistentDisk", GONE),
    refused("portworxVolume", GONE),
    yes("projected.defaultMode"),
    not_yet("projected.defaultUser", OWNER),
    refused("projected.sources[].clusterTrustBundle", "not projected yet"),
    yes("projected.sources[].configMap"),
    yes("projected.sources[].downwardAPI"),
    refused("projected.sources[].podCertificate", "not projected yet"),
    yes("projected.sources[].secret"),
    yes("projected.sources[].serviceAccountToken.audience"),
    yes("projected.sources[].serviceAccountToken.expirationSeconds"),
    yes("projected.sources[].serviceAccountToken.path"),
    not_yet("projected.sources[].serviceAccountToken.user", OWNER),
    refused("quobyte", GONE),
    refused("rbd", GONE),
    refused("scaleIO", GONE),
    yes("secret.defaultMode"),
    not_yet("secret.defaultUser", OWNER),
    yes("secret.items[].key"),
    yes("secret.items[].mode"),
    yes("secret.items[].path"),
    not_yet("secret.items[].user", OWNER),
    yes("secret.optional"),
    yes("secret.secretName"),
    refused("storageos", GONE),
    refused("vsphereVolume", GONE),
];
