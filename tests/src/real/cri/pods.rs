//! The pod half of the Container Runtime Interface: sandboxes, and the containers in them.
//!
//! As in the image half, messages hold the fields that these tests use.

use std::collections::HashMap;

use serde_json::Value;
use tonic::Status;

use super::{CriClient, Empty, ImageSpec, Mount};

/// `ContainerState.CONTAINER_EXITED`.
const EXITED: i32 = 2;

impl CriClient {
    /// RunPodSandbox: the sandbox's id. Its network is up when this returns.
    pub async fn run_pod(&self, config: &PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
        };
        let answer: PodSandboxId = self
            .call("/runtime.v1.RuntimeService/RunPodSandbox", request)
            .await?;
        Ok(answer.id)
    }

    /// The sandbox's address and the process id of its first process.
    pub async fn pod_network(&self, sandbox: &str) -> Result<(String, u32), Status> {
        let request = StatusRequest {
            id: sandbox.to_owned(),
            verbose: true,
        };
        let answer: PodSandboxStatusResponse = self
            .call("/runtime.v1.RuntimeService/PodSandboxStatus", request)
            .await?;
        let network = answer.status.and_then(|status| status.network);
        let info = answer.info.get("info").map_or("", String::as_str);
        let info: Value = serde_json::from_str(info).unwrap_or_default();
        let pid = info["pid"].as_u64().unwrap_or_default() as u32;
        Ok((network.unwrap_or_default().ip, pid))
    }

    /// StopPodSandbox: takes its network away.
    pub async fn stop_pod(&self, sandbox: &str) -> Result<(), Status> {
        let request = PodSandboxId {
            id: sandbox.to_owned(),
        };
        let _: Empty = self
            .call("/runtime.v1.RuntimeService/StopPodSandbox", request)
            .await?;
        Ok(())
    }

    /// RemovePodSandbox, with whatever containers are left in it.
    pub async fn remove_pod(&self, sandbox: &str) -> Result<(), Status> {
        let request = PodSandboxId {
            id: sandbox.to_owned(),
        };
        let _: Empty = self
            .call("/runtime.v1.RuntimeService/RemovePodSandbox", request)
            .await?;
        Ok(())
    }

    /// CreateContainer and StartContainer: the container's id.
    pub async fn start_container(
        &self,
        sandbox: &str,
        config: &ContainerConfig,
        pod: &PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod.clone()),
        };
        let made: ContainerId = self
            .call("/runtime.v1.RuntimeService/CreateContainer", request)
            .await?;
        let _: Empty = self
            .call("/runtime.v1.RuntimeService/StartContainer", made.clone())
            .await?;
        Ok(made.id)
    }

    /// The container's exit code and the runtime's reason ("Completed", "Error", "OOMKilled"), once it has ended.
    pub async fn exited(&self, container: &str) -> Result<Option<(i32, String)>, Status> {
        let request = StatusRequest {
            id: container.to_owned(),
            verbose: false,
        };
        let answer: ContainerStatusResponse = self
            .call("/runtime.v1.RuntimeService/ContainerStatus", request)
            .await?;
        let status = answer.status.unwrap_or_default();
        Ok((status.state == EXITED).then_some((status.exit_code, status.reason)))
    }

    /// StopContainer: SIGTERM, and after `grace_s` seconds SIGKILL.
    pub async fn stop_container(&self, container: &str, grace_s: i64) -> Result<(), Status> {
        let request = StopContainerRequest {
            id: container.to_owned(),
            timeout: grace_s,
        };
        let _: Empty = self
            .call("/runtime.v1.RuntimeService/StopContainer", request)
            .await?;
        Ok(())
    }

    /// ExecSync, as `kubectl exec` does: exit code and standard output.
    pub async fn exec(&self, container: &str, command: &[&str]) -> Result<(i32, String), Status> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|part| (*part).to_owned()).collect(),
            timeout: 60,
        };
        let answer: ExecSyncResponse = self
            .call("/runtime.v1.RuntimeService/ExecSync", request)
            .await?;
        let said = [answer.stdout, answer.stderr].concat();
        Ok((
            answer.exit_code,
            String::from_utf8_lossy(&said).into_owned(),
        ))
    }
}

/// Names a pod.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
}

/// A pod's sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "2")]
    pub hostname: String,
    /// Where its containers' logs go.
    #[prost(string, tag = "3")]
    pub log_directory: String,
    #[prost(message, optional, tag = "4")]
    pub dns_config: Option<DnsConfig>,
    #[prost(message, repeated, tag = "5")]
    pub port_mappings: Vec<PortMapping>,
    #[prost(map = "string, string", tag = "6")]
    pub labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "7")]
    pub annotations: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPodSandboxConfig>,
}

/// What becomes the pod's resolv.conf.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DnsConfig {
    #[prost(string, repeated, tag = "1")]
    pub servers: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub searches: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub options: Vec<String>,
}

/// A hostPort; the protocol is TCP.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PortMapping {
    #[prost(int32, tag = "2")]
    pub container_port: i32,
    #[prost(int32, tag = "3")]
    pub host_port: i32,
    #[prost(string, tag = "4")]
    pub host_ip: String,
}

/// The Linux half of a sandbox.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LinuxPodSandboxConfig {
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<LinuxSandboxSecurityContext>,
}

/// How a sandbox is confined.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LinuxSandboxSecurityContext {
    #[prost(message, optional, tag = "1")]
    pub namespace_options: Option<NamespaceOption>,
    #[prost(message, optional, tag = "3")]
    pub run_as_user: Option<Int64Value>,
    #[prost(int64, repeated, tag = "5")]
    pub supplemental_groups: Vec<i64>,
    #[prost(message, optional, tag = "8")]
    pub run_as_group: Option<Int64Value>,
    #[prost(message, optional, tag = "9")]
    pub seccomp: Option<SecurityProfile>,
}

/// Which namespaces a pod shares with the node: 0 is the pod's own, 1 the container's own, 2 the node's.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct NamespaceOption {
    #[prost(int32, tag = "1")]
    pub network: i32,
    #[prost(int32, tag = "2")]
    pub pid: i32,
    #[prost(int32, tag = "3")]
    pub ipc: i32,
}

/// A number that may be missing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Int64Value {
    #[prost(int64, tag = "1")]
    pub value: i64,
}

/// A seccomp profile: 0 is the runtime's default, 1 none.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SecurityProfile {
    #[prost(int32, tag = "1")]
    pub profile_type: i32,
}

/// A container in a pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    pub image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    pub command: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub args: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub envs: Vec<KeyValue>,
    #[prost(message, repeated, tag = "7")]
    pub mounts: Vec<Mount>,
    /// Relative to the sandbox's log directory.
    #[prost(string, tag = "11")]
    pub log_path: String,
    #[prost(message, optional, tag = "15")]
    pub linux: Option<LinuxContainerConfig>,
}

impl ContainerConfig {
    /// Says which image it runs.
    #[must_use]
    pub fn with_image(mut self, image: &str) -> Self {
        self.image = Some(ImageSpec::new(image));
        self
    }
}

/// Names a container.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A variable of the environment.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// The Linux half of a container.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LinuxContainerConfig {
    #[prost(message, optional, tag = "1")]
    pub resources: Option<LinuxContainerResources>,
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<LinuxContainerSecurityContext>,
}

/// What a container may use.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LinuxContainerResources {
    #[prost(int64, tag = "3")]
    pub cpu_shares: i64,
    #[prost(int64, tag = "4")]
    pub memory_limit_in_bytes: i64,
    #[prost(int64, tag = "5")]
    pub oom_score_adj: i64,
}

/// How a container is confined.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LinuxContainerSecurityContext {
    #[prost(message, optional, tag = "1")]
    pub capabilities: Option<Capability>,
    #[prost(message, optional, tag = "3")]
    pub namespace_options: Option<NamespaceOption>,
    #[prost(message, optional, tag = "5")]
    pub run_as_user: Option<Int64Value>,
    #[prost(bool, tag = "7")]
    pub readonly_rootfs: bool,
    #[prost(int64, repeated, tag = "8")]
    pub supplemental_groups: Vec<i64>,
    #[prost(bool, tag = "11")]
    pub no_new_privs: bool,
    #[prost(message, optional, tag = "12")]
    pub run_as_group: Option<Int64Value>,
    #[prost(message, optional, tag = "15")]
    pub seccomp: Option<SecurityProfile>,
}

/// Capabilities beyond the default ones, and without some of them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Capability {
    #[prost(string, repeated, tag = "1")]
    pub add: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub drop: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

/// Requests and answers that hold a sandbox's id alone.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PodSandboxId {
    #[prost(string, tag = "1")]
    id: String,
}

/// Requests and answers that hold a container's id alone.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ContainerId {
    #[prost(string, tag = "1")]
    id: String,
}

/// PodSandboxStatusRequest and ContainerStatusRequest.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StatusRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PodSandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<PodSandboxNetworkStatus>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PodSandboxNetworkStatus {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerStatus>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ContainerStatus {
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(int32, tag = "7")]
    exit_code: i32,
    #[prost(string, tag = "10")]
    reason: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StopContainerRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int64, tag = "2")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ExecSyncRequest {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, repeated, tag = "2")]
    cmd: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ExecSyncResponse {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    exit_code: i32,
}
