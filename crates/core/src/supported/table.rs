use serde_json::Value;

use super::{Field, Only, Place, State};

const fn yes(path: &'static str) -> Field {
    note(path, "")
}

const fn note(path: &'static str, note: &'static str) -> Field {
    Field { path, state: State::Supported, note, only: None }
}

const fn elsewhere(path: &'static str, note: &'static str) -> Field {
    Field { path, state: State::ControlPlane, note, only: None }
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

/// Whether an object has any field: the API server leaves empty ones where nothing was asked for.
fn is_filled(place: &Place<'_>) -> bool {
    place.value.as_object().is_some_and(|fields| !fields.is_empty())
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
    note("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].key", "checked at admission"),
    note("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].operator", "checked at admission"),
    note("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].values", "checked at admission"),
    note("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].key", "checked at admission"),
    note("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].operator", "checked at admission"),
    note("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].values", "checked at admission"),
    elsewhere("affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution", SCHEDULER),
    elsewhere("affinity.podAffinity", SCHEDULER),
    elsewhere("affinity.podAntiAffinity", SCHEDULER),
    elsewhere("automountServiceAccountToken", API),
    yes("dnsConfig.nameservers"),
    yes("dnsConfig.searches"),
    yes("dnsConfig.options[].name"),
    yes("dnsConfig.options[].value"),
    yes("dnsPolicy"),
    yes("enableServiceLinks"),
    not_yet("ephemeralContainers", "ephemeral containers are not started yet"),
    elsewhere("evictionResponders", "the eviction controller's"),
    yes("hostAliases[].hostnames"),
    yes("hostAliases[].ip"),
    yes("hostIPC"),
    yes("hostNetwork"),
    yes("hostPID"),
    refused("hostUsers", "user namespaces are not made yet; without one the pod's root would be the host's")
        .only("`false`", |place| place.value == &Value::Bool(false)),
    yes("hostname"),
    yes("hostnameOverride"),
    yes("imagePullSecrets[].name"),
    note("nodeName", "checked at admission"),
    note("nodeSelector", "checked at admission"),
    note("os.name", "`linux`; a pod of another system is rejected at admission, with the reason `PodOSNotSupported`"),
    note("overhead", "counted at admission and in the pod's cgroup"),
    elsewhere("preemptionPolicy", SCHEDULER),
    elsewhere("priority", "the scheduler's; the node takes criticality and the OOM score from it"),
    elsewhere("priorityClassName", "the API server's; the node takes the OOM score of `system-node-critical` from it"),
    yes("readinessGates[].conditionType"),
    refused("resourceClaims", "devices of dynamic resource allocation cannot be prepared"),
    refused("resources.claims", "devices of dynamic resource allocation cannot be prepared"),
    yes("resources.limits"),
    yes("resources.requests"),
    yes("restartPolicy"),
    refused("runtimeClassName", "there is one runtime, Podman's, and it has no classes"),
    elsewhere("schedulerName", SCHEDULER),
    elsewhere("schedulingGates", SCHEDULER),
    elsewhere("schedulingGroup", SCHEDULER),
    note("securityContext.appArmorProfile.localhostProfile", "where the host has AppArmor; elsewhere the pod is rejected at admission, with the reason `AppArmor`"),
    note("securityContext.appArmorProfile.type", "where the host has AppArmor; elsewhere the pod is rejected at admission, with the reason `AppArmor`"),
    yes("securityContext.fsGroup"),
    elsewhere("securityContext.fsGroupChangePolicy", "only a matter of speed: every file's owner is looked at"),
    yes("securityContext.runAsGroup"),
    yes("securityContext.runAsNonRoot"),
    yes("securityContext.runAsUser"),
    elsewhere("securityContext.seLinuxChangePolicy", "volumes are never mounted with an SELinux context"),
    note("securityContext.seLinuxOptions.level", "where the host has SELinux"),
    note("securityContext.seLinuxOptions.role", "where the host has SELinux"),
    note("securityContext.seLinuxOptions.type", "where the host has SELinux"),
    note("securityContext.seLinuxOptions.user", "where the host has SELinux"),
    yes("securityContext.seccompProfile.localhostProfile"),
    yes("securityContext.seccompProfile.type"),
    yes("securityContext.supplementalGroups"),
    refused("securityContext.supplementalGroupsPolicy", "groups of the image's /etc/group cannot be left out yet; admission says so first, with the reason `SupplementalGroupsPolicyNotSupported`")
        .only("`Strict`", |place| place.value == "Strict"),
    note("securityContext.sysctls[].name", "the safe ones, and those that the configuration allows; others are rejected at admission, with the reason `SysctlForbidden`"),
    yes("securityContext.sysctls[].value"),
    refused("securityContext.windowsOptions", "this node runs Linux").only("not empty", is_filled),
    elsewhere("serviceAccount", "the old name of serviceAccountName"),
    note("serviceAccountName", "the API server's; tokens of projected volumes are asked for in its name"),
    yes("setHostnameAsFQDN"),
    yes("shareProcessNamespace"),
    yes("subdomain"),
    yes("terminationGracePeriodSeconds"),
    elsewhere("tolerations", "the scheduler's; those of NoExecute taints are checked at admission"),
    elsewhere("topologySpreadConstraints", SCHEDULER),
];

/// Below `spec.containers[]` and `spec.initContainers[]`.
pub(super) const CONTAINER: &[Field] = &[
    yes("args"),
    yes("command"),
    yes("env[].name"),
    yes("env[].value"),
    yes("env[].valueFrom.configMapKeyRef.key"),
    yes("env[].valueFrom.configMapKeyRef.name"),
    yes("env[].valueFrom.configMapKeyRef.optional"),
    yes("env[].valueFrom.fieldRef.apiVersion"),
    yes("env[].valueFrom.fieldRef.fieldPath"),
    refused("env[].valueFrom.fileKeyRef", "files of variables are not read yet"),
    yes("env[].valueFrom.resourceFieldRef.containerName"),
    yes("env[].valueFrom.resourceFieldRef.divisor"),
    yes("env[].valueFrom.resourceFieldRef.resource"),
    yes("env[].valueFrom.secretKeyRef.key"),
    yes("env[].valueFrom.secretKeyRef.name"),
    yes("env[].valueFrom.secretKeyRef.optional"),
    yes("envFrom[].configMapRef.name"),
    yes("envFrom[].configMapRef.optional"),
    yes("envFrom[].prefix"),
    yes("envFrom[].secretRef.name"),
    yes("envFrom[].secretRef.optional"),
    yes("image"),
    yes("imagePullPolicy"),
    not_yet("lifecycle.postStart", HOOKS),
    not_yet("lifecycle.preStop", HOOKS),
    not_yet("lifecycle.stopSignal", "the image's stop signal is sent"),
    not_yet("livenessProbe", PROBES),
    yes("name"),
    yes("ports[].containerPort"),
    note("ports[].hostIP", "see hostPort"),
    not_yet("ports[].hostPort", "the host's port is not connected yet; it counts as taken at admission")
        .only("without hostNetwork", |place| !on_host_network(place) && place.value.as_i64() != Some(0)),
    yes("ports[].name"),
    yes("ports[].protocol"),
    not_yet("readinessProbe", PROBES),
    not_yet("resizePolicy[].restartPolicy", "resources are not changed in place yet")
        .only("`RestartContainer`", |place| place.value == "RestartContainer"),
    note("resizePolicy[].resourceName", "see resizePolicy[].restartPolicy"),
    refused("resources.claims", "devices of dynamic resource allocation cannot be prepared"),
    not_yet("resources.limits.ephemeral-storage", "counted at admission, not enforced yet"),
    yes("resources.limits"),
    yes("resources.requests"),
    refused("restartPolicy", "containers with a restart policy of their own (sidecars among them) are not run yet"),
    refused("restartPolicyRules", "containers with a restart policy of their own are not run yet"),
    yes("securityContext.allowPrivilegeEscalation"),
    note(
        "securityContext.appArmorProfile.localhostProfile",
        "where the host has AppArmor; elsewhere the pod is rejected at admission, with the reason `AppArmor`",
    ),
    note(
        "securityContext.appArmorProfile.type",
        "where the host has AppArmor; elsewhere the pod is rejected at admission, with the reason `AppArmor`",
    ),
    yes("securityContext.capabilities.add"),
    yes("securityContext.capabilities.drop"),
    yes("securityContext.privileged"),
    yes("securityContext.procMount"),
    yes("securityContext.readOnlyRootFilesystem"),
    yes("securityContext.runAsGroup"),
    yes("securityContext.runAsNonRoot"),
    yes("securityContext.runAsUser"),
    note("securityContext.seLinuxOptions.level", "where the host has SELinux"),
    note("securityContext.seLinuxOptions.role", "where the host has SELinux"),
    note("securityContext.seLinuxOptions.type", "where the host has SELinux"),
    note("securityContext.seLinuxOptions.user", "where the host has SELinux"),
    yes("securityContext.seccompProfile.localhostProfile"),
    yes("securityContext.seccompProfile.type"),
    refused("securityContext.windowsOptions", "this node runs Linux").only("not empty", is_filled),
    not_yet("startupProbe", PROBES),
    note("stdin", "open until an attached client ends it"),
    note("stdinOnce", "always so: the first attached client that ends its input ends the container's"),
    yes("terminationMessagePath"),
    yes("terminationMessagePolicy"),
    yes("tty"),
    refused("volumeDevices", "block devices are not handed to containers yet"),
    refused("volumeMounts[].bindMountOptions", "the mount would allow what these options forbid"),
    yes("volumeMounts[].mountPath"),
    yes("volumeMounts[].mountPropagation"),
    yes("volumeMounts[].name"),
    yes("volumeMounts[].readOnly"),
    refused("volumeMounts[].recursiveReadOnly", "mounts below the volume's own would stay writable")
        .only("`Enabled`", |place| place.value == "Enabled"),
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
    yes("downwardAPI.items[].fieldRef.apiVersion"),
    yes("downwardAPI.items[].fieldRef.fieldPath"),
    yes("downwardAPI.items[].mode"),
    yes("downwardAPI.items[].path"),
    yes("downwardAPI.items[].resourceFieldRef.containerName"),
    yes("downwardAPI.items[].resourceFieldRef.divisor"),
    yes("downwardAPI.items[].resourceFieldRef.resource"),
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
    yes("hostPath.path"),
    yes("hostPath.type"),
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
    yes("projected.sources[].configMap.items[].key"),
    yes("projected.sources[].configMap.items[].mode"),
    yes("projected.sources[].configMap.items[].path"),
    not_yet("projected.sources[].configMap.items[].user", OWNER),
    yes("projected.sources[].configMap.name"),
    yes("projected.sources[].configMap.optional"),
    yes("projected.sources[].downwardAPI.items[].fieldRef.apiVersion"),
    yes("projected.sources[].downwardAPI.items[].fieldRef.fieldPath"),
    yes("projected.sources[].downwardAPI.items[].mode"),
    yes("projected.sources[].downwardAPI.items[].path"),
    yes("projected.sources[].downwardAPI.items[].resourceFieldRef.containerName"),
    yes("projected.sources[].downwardAPI.items[].resourceFieldRef.divisor"),
    yes("projected.sources[].downwardAPI.items[].resourceFieldRef.resource"),
    not_yet("projected.sources[].downwardAPI.items[].user", OWNER),
    refused("projected.sources[].podCertificate", "not projected yet"),
    yes("projected.sources[].secret.items[].key"),
    yes("projected.sources[].secret.items[].mode"),
    yes("projected.sources[].secret.items[].path"),
    not_yet("projected.sources[].secret.items[].user", OWNER),
    yes("projected.sources[].secret.name"),
    yes("projected.sources[].secret.optional"),
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
